-- Compare-and-set of a scene's pointer, and the line of the scene's log that tells of it: both or neither.
-- KEYS: scenes, generations, used, the scene's log. ARGV: scene, pointer that was read ("" for none), new pointer,
-- its generation, that one's part, the part of the generation that is left ("" for none), line, most lines, and
-- the part of a canary that there was.
-- A call that is sent again after it was done writes the same pointer again, and no second line.
-- Reply: {"ok"}, {"moved"} where another writer was first, or {"generation"} where that is not published.
local call = redis.call
if call('HEXISTS', KEYS[2], ARGV[4]) == 0 then
  return {'generation'}
end
local pointer = call('HGET', KEYS[1], ARGV[1]) or ''
if pointer ~= ARGV[2] and pointer ~= ARGV[3] then
  return {'moved'}
end
local clock = call('TIME')
local now = string.format('%.0f', clock[1] * 1000000 + clock[2])
call('HSET', KEYS[1], ARGV[1], ARGV[3])
call('HSET', KEYS[3], ARGV[5], now)
if ARGV[6] ~= '' then
  call('HSET', KEYS[3], ARGV[6], now)
end
if ARGV[9] then
  call('HSET', KEYS[3], ARGV[9], now)
end
if pointer ~= ARGV[3] then
  call('XADD', KEYS[4], 'MAXLEN', ARGV[8], '*', 'line', ARGV[7])
end
return {'ok'}
