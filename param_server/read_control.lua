-- Everything that says which parts there are and who needs them, as it is at one moment.
-- KEYS: scenes, generations, spaces, ID tables, used, pins, collecting, loads, published. ARGV: parts that get the
-- present time as their last use where they have none.
-- Reply: {now in microseconds, then seven hashes as field, value, ..., then names of loads, published parts}.
local call = redis.call
local clock = call('TIME')
local now = string.format('%.0f', clock[1] * 1000000 + clock[2])
for _, part in ipairs(ARGV) do
  call('HSETNX', KEYS[5], part, now)
end
local reply = {now}
for i = 1, 7 do
  reply[i + 1] = call('HGETALL', KEYS[i])
end
reply[9] = call('HKEYS', KEYS[8])
reply[10] = call('SMEMBERS', KEYS[9])
return reply
