-- One chunk of ID rows into a table that is still being loaded; rows are never changed.
-- KEYS: id_tables, loaded, sealed, then K row keys. ARGV: name, description, then K rows.
-- Reply: {"ok", count of loaded rows}, {"description", the stored one}, {"differs", index} where
-- another row is stored under the key, or {"sealed", index} where a finished table lacks the key.
local description = redis.call('HGET', KEYS[1], ARGV[1])
if description and description ~= ARGV[2] then
  return {'description', description}
end
local sealed = redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1
for i = 4, #KEYS do
  local stored = redis.call('GET', KEYS[i])
  if stored and stored ~= ARGV[i - 1] then
    return {'differs', i - 4}
  end
  if sealed and not stored then
    return {'sealed', i - 4}
  end
end
local added = 0
if not sealed then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  for i = 4, #KEYS do
    if redis.call('SET', KEYS[i], ARGV[i - 1], 'NX') then
      added = added + 1
    end
  end
end
return {'ok', redis.call('HINCRBY', KEYS[2], ARGV[1], added)}
