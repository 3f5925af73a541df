-- Take parts out of everything that finds them, all or none: from here on nothing reads or writes them.
-- KEYS: scenes, generations, spaces, ID tables, sealed ones, used, published, pins, collecting, probes, loads.
-- ARGV: count of pointers, then of each scene, pointer that was read, new pointer; then of each part its name in
-- used, "g", "s" or "t", its own name, its last use as it was read. Whoever uses a part changes its last use.
-- Reply: {"ok"}, or {"changed", scene or part}: nothing is marked.
local call, sub = redis.call, string.sub
local first = 2 + 3 * tonumber(ARGV[1])
for i = 2, first - 1, 3 do
  if call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
    return {'changed', ARGV[i]}
  end
end
local place = {g = KEYS[2], s = KEYS[3], t = KEYS[4]}
for i = first, #ARGV, 4 do
  if call('HGET', KEYS[6], ARGV[i]) ~= ARGV[i + 3] or call('HEXISTS', KEYS[8], ARGV[i]) == 1
    or call('HEXISTS', place[ARGV[i + 1]], ARGV[i + 2]) == 0 then
    return {'changed', ARGV[i]}
  end
end
for i = 2, first - 1, 3 do
  call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
end
local loads = call('HKEYS', KEYS[11])
for i = first, #ARGV, 4 do
  local part, kind, name = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind ~= 'g' then
    call('HSET', KEYS[9], part, call('HGET', place[kind], name))
  end
  call('HDEL', place[kind], name)
  call('HDEL', KEYS[6], part)
  call('SREM', KEYS[7], part)
  if kind == 't' then
    call('SREM', KEYS[5], name)
  elseif kind == 's' then
    call('HDEL', KEYS[10], name)
    for _, load in ipairs(loads) do
      if sub(load, 1, #name + 1) == name .. ':' then
        call('HDEL', KEYS[11], load)
      end
    end
  end
end
return {'ok'}
