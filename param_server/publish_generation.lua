-- Publish a generation whose parts are all there: a part that is being collected is not.
-- KEYS: generations, spaces, ID tables, sealed ones, used, published. ARGV: generation id, manifest, its part,
-- space id, header, its part, then for the ID table and for its base, if any: name, description, part.
-- A base's description is "": any will do. Reply: {"ok"}, or {"space"}, {"table", name} for what is not ready.
local call = redis.call
if call('HGET', KEYS[2], ARGV[4]) ~= ARGV[5] then
  return {'space'}
end
for i = 7, #ARGV, 3 do
  local stored = call('HGET', KEYS[3], ARGV[i])
  if not stored or (ARGV[i + 1] ~= '' and stored ~= ARGV[i + 1]) or call('SISMEMBER', KEYS[4], ARGV[i]) == 0 then
    return {'table', ARGV[i]}
  end
end
local clock = call('TIME')
local now = string.format('%.0f', clock[1] * 1000000 + clock[2])
call('HSET', KEYS[1], ARGV[1], ARGV[2])
call('HSET', KEYS[5], ARGV[3], now)
for i = 6, #ARGV, 3 do
  call('HSET', KEYS[5], ARGV[i], now)
  call('SADD', KEYS[6], ARGV[i])
end
return {'ok'}
