-- Delete a user's behaviours; what stays is a header with the time up to which events are refused.
-- KEYS: the shard's key, the user's. ARGV: none.
-- Reply: {"ok", behaviours deleted, that time in ms}, or {"version", 0, what is stored}: nothing is deleted.
-- The time is the server's clock, or the newest behaviour's or an earlier deletion's where that is later.
local HEADER, KNOWN = 12, '\1\0'
local call, sub, unpack_from = redis.call, string.sub, struct.unpack
local function number(bytes, at)
  local low, high = unpack_from('<I4I4', bytes, at)
  return high * 4294967296 + low
end

local clock = call('TIME')
local until_ms, n = clock[1] * 1000 + math.floor(clock[2] / 1000), 0
local value = call('GET', KEYS[2])
if value then
  n = #value >= HEADER and unpack_from('<I2', value, 3)
  if sub(value, 1, 2) ~= KNOWN or not n or #value < HEADER + 17 * n then
    return {'version', 0, value}
  end
  until_ms = math.max(until_ms, number(value, 5), n > 0 and number(value, HEADER + 8 * n - 7) or 0)
end
local high = math.floor(until_ms / 4294967296)
call('SET', KEYS[2], KNOWN .. struct.pack('<I2I4I4', 0, until_ms - high * 4294967296, high))
if n > 0 then
  call('HINCRBY', KEYS[1], 'users', -1)
  call('HINCRBY', KEYS[1], 'behaviours', -n)
end
return {'ok', n, string.format('%.0f', until_ms)}
