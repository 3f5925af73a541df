-- One window of content records into one space, all or nothing; newer sequence wins.
-- KEYS: spaces, live, then K record keys. ARGV: space id, space header, then K values.
-- Reply: {"ok", K characters "1" accepted or "0" refused}, {"space", stored header or false},
-- or {"version", index, header of the stored row}.
-- A value starts with version u8, codec u8, flags u8, reserved u8, sequence u64 little-endian; the
-- sequence is compared as two u32 halves because Lua's numbers are doubles, exact only to 2^53.
local HEADER, TOMBSTONE = 12, 128
local header = redis.call('HGET', KEYS[1], ARGV[1])
if header ~= ARGV[2] then
  return {'space', header}
end

local current = {}
for i = 3, #KEYS do
  local key = KEYS[i]
  if current[key] == nil then
    local head = redis.call('GETRANGE', key, 0, HEADER - 1)
    if #head ~= 0 and (#head ~= HEADER or string.sub(head, 1, 2) ~= string.sub(ARGV[i], 1, 2)) then
      return {'version', i - 3, head}
    end
    current[key] = head
  end
end

local accepted, live = {}, 0
for i = 3, #KEYS do
  local key, value = KEYS[i], ARGV[i]
  local head = current[key]
  local write, same = true, false
  if #head ~= 0 then
    local old_low, old_high = struct.unpack('<I4I4', head, 5)
    local low, high = struct.unpack('<I4I4', value, 5)
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
  end
  accepted[i - 2] = (write or same) and '1' or '0'
end
if live ~= 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[1], live)
end
return {'ok', table.concat(accepted)}
