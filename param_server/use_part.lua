-- Make a space or an ID table known, say that it is in use, or call an ID table sealed.
-- KEYS: spaces or ID tables, used, collecting, to seal also sealed ones. ARGV: its name there, its part, its header
-- or description ("" = it must be there), "seal" or "".
-- Reply: {"ok"}, {"collecting"}, {"absent"}, or {"other", what is stored under the name}.
local call = redis.call
if call('HEXISTS', KEYS[3], ARGV[2]) == 1 then
  return {'collecting'}
end
local stored = call('HGET', KEYS[1], ARGV[1])
if not stored then
  if ARGV[3] == '' then
    return {'absent'}
  end
  call('HSET', KEYS[1], ARGV[1], ARGV[3])
elseif ARGV[3] ~= '' and stored ~= ARGV[3] then
  return {'other', stored}
end
if ARGV[4] == 'seal' then
  call('SADD', KEYS[4], ARGV[1])
end
local clock = call('TIME')
call('HSET', KEYS[2], ARGV[2], string.format('%.0f', clock[1] * 1000000 + clock[2]))
return {'ok'}
