-- Some buckets of a retired shard, and in the end its own key.
-- KEYS: the shard's key, buckets. ARGV: "last" where no bucket is left after these, else "".
-- Reply: {"ok", keys removed}, or {"live"} where the shard is not retired: nothing is removed.
local call = redis.call
if call('HGET', KEYS[1], 'retired') ~= '1' then
  return {'live'}
end
local removed = #KEYS > 1 and call('UNLINK', unpack(KEYS, 2)) or 0
if ARGV[1] == 'last' then
  removed = removed + call('UNLINK', KEYS[1])
end
return {'ok', removed}
