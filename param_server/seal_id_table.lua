-- A completely loaded ID table becomes final.
-- KEYS: id_tables, loaded, sealed. ARGV: name, description, count of rows that the table must hold.
-- Reply: {"ok"}, {"description", the stored one} or {"rows", count of loaded rows}.
local description = redis.call('HGET', KEYS[1], ARGV[1])
if description and description ~= ARGV[2] then
  return {'description', description}
end
local loaded = redis.call('HGET', KEYS[2], ARGV[1]) or '0'
if loaded ~= ARGV[3] then
  return {'rows', loaded}
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SADD', KEYS[3], ARGV[1])
return {'ok'}
