-- The records of one window that belong to one shard of a space; newer sequence wins.
-- KEYS: the shard's key, then each record's bucket. ARGV: sha256 of the space header, then each record's id, value.
-- Reply: {"ok", K characters "1" accepted or "0" refused}, {"space"} where the shard is of no or another space,
-- or {"version", index, header of the stored row}; after the last two nothing of this shard is written.
-- A value starts with version u8, codec u8, flags u8, guard u8, sequence u64 little-endian; the
-- sequence is compared as two u32 halves because Lua's numbers are doubles, exact only to 2^53.
local HEADER, TOMBSTONE = 12, 128
local call, unpack_u64, sub, byte = redis.call, struct.unpack, string.sub, string.byte
local shard = call('HMGET', KEYS[1], 'header', 'high_water')
if shard[1] ~= ARGV[1] then
  return {'space'}
end

local count = #KEYS - 1
local current = {}
for i = 1, count do
  local row = call('HGET', KEYS[i + 1], ARGV[2 * i]) or ''
  if #row ~= 0 and (#row < HEADER or sub(row, 1, 2) ~= sub(ARGV[2 * i + 1], 1, 2)) then
    return {'version', i - 1, sub(row, 1, HEADER)}
  end
  current[ARGV[2 * i]] = row
end

local water_low, water_high, raised = 0, 0, false
if shard[2] then
  water_low, water_high = unpack_u64('<I4I4', shard[2])
end

local accepted, live, wrote = {}, 0, false
for i = 1, count do
  local id, value = ARGV[2 * i], ARGV[2 * i + 1]
  local row = current[id]
  local low, high = unpack_u64('<I4I4', value, 5)
  local write, same = true, false
  if #row ~= 0 then
    local old_low, old_high = unpack_u64('<I4I4', row, 5)
    write = high > old_high or (high == old_high and low > old_low)
    same = row == value
  end
  if write then
    call('HSET', KEYS[i + 1], id, value)
    wrote = true
    if #row ~= 0 and byte(row, 3) < TOMBSTONE then
      live = live - 1
    end
    if byte(value, 3) < TOMBSTONE then
      live = live + 1
    end
    current[id] = value
    if high > water_high or (high == water_high and low > water_low) then
      water_low, water_high, raised = low, high, true
    end
  end
  accepted[i] = (write or same) and '1' or '0'
end
if raised then
  call('HSET', KEYS[1], 'high_water', struct.pack('<I4I4', water_low, water_high))
end
if live ~= 0 then
  call('HINCRBY', KEYS[1], 'live', live)
end
if not wrote then
  call('HSET', KEYS[1], 'header', ARGV[1]) -- so that WAIT waits for an earlier write of these records
end
return {'ok', table.concat(accepted)}
