-- One window of content records into one space, all or nothing; newer sequence wins.
-- KEYS: spaces, live, high water, then K record keys. ARGV: space id, space header, then K values.
-- High water: the newest sequence ever written, u64 little-endian.
-- Reply: {"ok", K characters "1" accepted or "0" refused}, {"space", stored header or false},
-- or {"version", index, header of the stored row}.
-- A value starts with version u8, codec u8, flags u8, reserved u8, sequence u64 little-endian; the
-- sequence is compared as two u32 halves because Lua's numbers are doubles, exact only to 2^53.
local HEADER, TOMBSTONE, FIRST = 12, 128, 4
local header = redis.call('HGET', KEYS[1], ARGV[1])
if header ~= ARGV[2] then
  return {'space', header}
end

local current = {}
for i = FIRST, #KEYS do
  local key, value = KEYS[i], ARGV[i - 1]
  if current[key] == nil then
    local head = redis.call('GETRANGE', key, 0, HEADER - 1)
    if #head ~= 0 and (#head ~= HEADER or string.sub(head, 1, 2) ~= string.sub(value, 1, 2)) then
      return {'version', i - FIRST, head}
    end
    current[key] = head
  end
end

local water = redis.call('GET', KEYS[3])
local water_low, water_high, raised = 0, 0, false
if water then
  water_low, water_high = struct.unpack('<I4I4', water)
end

local accepted, live = {}, 0
for i = FIRST, #KEYS do
  local key, value = KEYS[i], ARGV[i - 1]
  local low, high = struct.unpack('<I4I4', value, 5)
  local head = current[key]
  local write, same = true, false
  if #head ~= 0 then
    local old_low, old_high = struct.unpack('<I4I4', head, 5)
    write = high > old_high or (high == old_high and low > old_low)
    same = high == old_high and low == old_low and redis.call('GET', key) == value
  end
  if write then
    redis.call('SET', key, value)
    if #head ~= 0 and string.byte(head, 3) < TOMBSTONE then
      live = live - 1
    end
    if string.byte(value, 3) < TOMBSTONE then
      live = live + 1
    end
    current[key] = string.sub(value, 1, HEADER)
    if high > water_high or (high == water_high and low > water_low) then
      water_low, water_high, raised = low, high, true
    end
  end
  accepted[i - FIRST + 1] = (write or same) and '1' or '0'
end
if raised then
  redis.call('SET', KEYS[3], struct.pack('<I4I4', water_low, water_high))
end
if live ~= 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[1], live)
end
return {'ok', table.concat(accepted)}
