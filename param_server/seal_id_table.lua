-- Seal one shard of an ID table, open it again, or only count its rows.
-- KEYS: the shard's key. ARGV: description, "seal", "open" or "count", name of the sealer. Only who sealed a
-- shard last opens it, so a sealer that fails never opens what another one finished.
-- Reply: {"ok", count of loaded rows} or {"description", the stored one}.
local shard = redis.call('HMGET', KEYS[1], 'description', 'loaded', 'state')
if shard[1] and shard[1] ~= ARGV[1] then
  return {'description', shard[1]}
end
if ARGV[2] == 'seal' then
  redis.call('HSET', KEYS[1], 'description', ARGV[1], 'state', ARGV[3])
elseif ARGV[2] == 'open' and shard[3] == ARGV[3] then
  redis.call('HSET', KEYS[1], 'state', 'open')
end
return {'ok', tonumber(shard[2] or '0')}
