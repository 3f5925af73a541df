-- One entry more of a space's window stream; what it makes too much of goes, oldest first.
-- KEYS: the stream; its bytes; how far the sink has written it. ARGV: field, value; entries kept; bytes kept.
-- Reply: {the entry's id}.
-- What a sink has not written is kept beyond the count. The count is brought down step by step, so that a sink
-- that was far behind makes no announcement slow; the bytes at once. The newest entry always stays.

local function before(a, b)
  local a_ms, a_number = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_number = string.match(b, '(%d+)-(%d+)')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_number) < tonumber(b_number)
end

local id = redis.call('XADD', KEYS[1], '*', ARGV[1], ARGV[2])
local entries, most, limit = redis.call('XLEN', KEYS[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes = #ARGV[2]
if entries > 1 then bytes = bytes + tonumber(redis.call('GET', KEYS[2]) or '0') end
local sunk, steps = redis.call('GET', KEYS[3]), 0
while entries > 1 and (bytes > limit or (entries > most and steps < 64)) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if bytes <= limit and sunk and not before(oldest[1], sunk) then break end
  redis.call('XDEL', KEYS[1], oldest[1])
  entries, bytes, steps = entries - 1, math.max(0, bytes - #oldest[2][2]), steps + 1
end
redis.call('SET', KEYS[2], string.format('%.0f', bytes))
return {id}
