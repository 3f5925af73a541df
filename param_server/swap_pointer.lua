-- Compare-and-set of a scene's pointer.
-- KEYS: scenes, generations. ARGV: scene, pointer that was read ("" for none), new pointer, its generation.
-- Reply: {"ok"}, {"moved"} where another writer was first, or {"generation"} where that is not published.
if redis.call('HEXISTS', KEYS[2], ARGV[4]) == 0 then
  return {'generation'}
end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then
  return {'moved'}
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {'ok'}
