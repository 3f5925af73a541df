-- One shard of a space or an ID table that is being collected: no row is added from here on.
-- KEYS: the shard's key. ARGV: fields, values that refuse writers.
-- Reply: {"ok", the newest sequence, u64 LE, or ""}, or {"gone"} where nothing is left of it.
local call = redis.call
if call('EXISTS', KEYS[1]) == 0 then
  return {'gone'}
end
call('HSET', KEYS[1], 'retired', '1', unpack(ARGV))
return {'ok', call('HGET', KEYS[1], 'high_water') or ''}
