-- One collector at a time. KEYS: collector. ARGV: its name, milliseconds ("0" = give the lease back).
-- Reply: {"ok"}, or {"held", milliseconds left} by another one.
local call = redis.call
local holder = call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {'held', call('PTTL', KEYS[1])}
end
if ARGV[2] == '0' then
  call('DEL', KEYS[1])
else
  call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return {'ok'}
