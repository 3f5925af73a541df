-- Rows of one shard of an ID table that is still being loaded; rows are never changed.
-- KEYS: the shard's key, then each row's bucket. ARGV: description, then each row's id, row.
-- Reply: {"ok"}, {"description", the stored one}, {"differs", index} where another row is stored under the id,
-- or {"sealed", index} where a finished table lacks the id; after the last three nothing is written.
local call = redis.call
local shard = call('HMGET', KEYS[1], 'description', 'state')
if shard[1] and shard[1] ~= ARGV[1] then
  return {'description', shard[1]}
end
local sealed = shard[2] and shard[2] ~= 'open'
local count = #KEYS - 1
for i = 1, count do
  local stored = call('HGET', KEYS[i + 1], ARGV[2 * i])
  if stored and stored ~= ARGV[2 * i + 1] then
    return {'differs', i - 1}
  end
  if sealed and not stored then
    return {'sealed', i - 1}
  end
end
if not sealed then
  if not shard[1] then
    call('HSET', KEYS[1], 'description', ARGV[1])
  end
  local added = 0
  for i = 1, count do
    added = added + call('HSETNX', KEYS[i + 1], ARGV[2 * i], ARGV[2 * i + 1])
  end
  if added ~= 0 then
    call('HINCRBY', KEYS[1], 'loaded', added)
  end
end
return {'ok'}
