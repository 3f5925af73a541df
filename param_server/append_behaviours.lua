-- Events of the users of one shard into their behaviours; the bytes are those of behaviour_rows.py.
-- KEYS: the shard's key, then each user's. ARGV: most behaviours of a user, then each user's events, by time.
-- Reply: {"ok", a character per event: "a" appended, "d" known already, "o" too old, "f" forgotten}, or
-- {"version", index of the user, what is stored}, after which nothing of this shard is written.
-- A user's call is one step: what is stored and what is new, by time, stored first where times are equal,
-- the newest kept. A full list takes nothing that is not newer than its oldest, so what has left it stays out.
local HEADER, KNOWN = 12, '\1\0'
local call, sub, byte, find, concat = redis.call, string.sub, string.byte, string.find, table.concat
local unpack_from, pack = struct.unpack, struct.pack
local most = tonumber(ARGV[1])

local function parts(value)
  local n = unpack_from('<I2', value, 3)
  local digests, sizes, ids = HEADER + 8 * n, HEADER + 16 * n, HEADER + 17 * n
  return n, sub(value, HEADER + 1, digests), sub(value, digests + 1, sizes), sub(value, sizes + 1, ids),
    sub(value, ids + 1)
end

local function number(bytes, i) -- the i-th u64: exact, since it is below 2^53
  local low, high = unpack_from('<I4I4', bytes, 8 * i - 7)
  return high * 4294967296 + low
end

local function has(digests, digest)
  local at = find(digests, digest, 1, true)
  while at and at % 8 ~= 1 do
    at = find(digests, digest, at + 1, true)
  end
  return at ~= nil
end

local function id_bytes(sizes, first, last)
  local sum = 0
  for i = first, last do
    sum = sum + byte(sizes, i) + 1
  end
  return sum
end

local stored = {}
for user = 1, #KEYS - 1 do
  local value = call('GET', KEYS[user + 1])
  if value then
    local n = #value >= HEADER and unpack_from('<I2', value, 3)
    if sub(value, 1, 2) ~= KNOWN or not n or #value < HEADER + 17 * n then
      return {'version', user - 1, value}
    end
  end
  stored[user] = value or KNOWN .. string.rep('\0', HEADER - 2)
end

local outcomes, users, added = {}, 0, 0
for user = 1, #KEYS - 1 do
  local value = stored[user]
  local n, times, digests, sizes, ids = parts(value)
  local forgotten = number(sub(value, 5, HEADER), 1)
  local newest, oldest = n > 0 and number(times, n) or -1, n > 0 and number(times, 1) or -1
  local m, new_times, new_digests, new_sizes, new_ids = parts(ARGV[user + 1])

  -- taken: the new events that go in, with how many stored ones come before each
  local taken, seen, id_at, before = {}, {}, 1, 0
  local first = #outcomes
  for i = 1, m do
    local time, digest = number(new_times, i), sub(new_digests, 8 * i - 7, 8 * i)
    local id_end = id_at + byte(new_sizes, i)
    local outcome = 'a'
    if forgotten > 0 and time <= forgotten then
      outcome = 'f'
    elseif seen[digest] or has(digests, digest) then
      outcome = 'd'
    elseif n >= most and time <= oldest then
      outcome = 'o'
    else
      if time >= newest then
        before = n
      else
        while number(times, before + 1) <= time do
          before = before + 1
        end
      end
      seen[digest] = true
      taken[#taken + 1] = {before, i, digest, id_at, id_end, first + i}
    end
    outcomes[first + i] = outcome
    id_at = id_end + 1
  end

  local count = n + #taken
  if #taken > 0 or n > most then
    local t, d, s, x, from, x_from = {}, {}, {}, {}, 0, 0
    local function copy(to)
      if to > from then
        local x_to = to == n and #ids or x_from + id_bytes(sizes, from + 1, to)
        t[#t + 1] = sub(times, 8 * from + 1, 8 * to)
        d[#d + 1] = sub(digests, 8 * from + 1, 8 * to)
        s[#s + 1] = sub(sizes, from + 1, to)
        x[#x + 1] = sub(ids, x_from + 1, x_to)
        from, x_from = to, x_to
      end
    end
    local drop = count - most
    for place, new in ipairs(taken) do
      copy(new[1])
      local i = new[2]
      t[#t + 1], d[#d + 1] = sub(new_times, 8 * i - 7, 8 * i), new[3]
      s[#s + 1], x[#x + 1] = sub(new_sizes, i, i), sub(new_ids, new[4], new[5])
      if new[1] + place <= drop then
        outcomes[new[6]] = 'o'
      end
    end
    copy(n)
    times, digests, sizes, ids = concat(t), concat(d), concat(s), concat(x)
    if drop > 0 then
      ids = sub(ids, id_bytes(sizes, 1, drop) + 1)
      times, digests, sizes = sub(times, 8 * drop + 1), sub(digests, 8 * drop + 1), sub(sizes, drop + 1)
      count = most
    end
    call('SET', KEYS[user + 1], KNOWN .. pack('<I2', count) .. sub(value, 5, HEADER) .. times .. digests .. sizes .. ids)
    added = added + count - n
    if n == 0 then
      users = users + 1
    end
  end
end
call('HINCRBY', KEYS[1], 'users', users) -- always a write, so that WAIT waits for an earlier one of these events
if added ~= 0 then
  call('HINCRBY', KEYS[1], 'behaviours', added)
end
return {'ok', concat(outcomes)}
