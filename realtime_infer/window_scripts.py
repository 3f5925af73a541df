"""The Lua scripts of the sink. Each is atomic; each touches the keys of one space only."""

from __future__ import annotations

from realtime_infer.stream_scripts import Script

_BEFORE = """
local function before(a, b)
  local a_ms, a_number = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_number = string.match(b, '(%d+)-(%d+)')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_number) < tonumber(b_number)
end
local function newest(key)
  local info = redis.call('XINFO', 'STREAM', key)
  local found = {}
  for i = 1, #info, 2 do found[info[i]] = info[i + 1] end
  return found['last-generated-id'], found['entries-added']
end
"""

# KEYS stream   ARGV id -> 1 where no entry behind this id can have been lost. Entries go from the oldest on,
# so none behind one that is still there is gone; nor is any where the stream never gave a later id.
ANCHORED = Script(
    _BEFORE
    + """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) > 0 then return 1 end
if redis.call('EXISTS', KEYS[1]) == 0 then return ARGV[1] == '0-0' and 1 or 0 end
local last, added = newest(KEYS[1])
if last == ARGV[1] or (ARGV[1] == '0-0' and added == redis.call('XLEN', KEYS[1])) then return 1 end
return 0
"""
)

# KEYS stream   ARGV id -> the newest id given, at least this one from now on: a stream that was made anew, by
# a clock that is behind, would else give ids that the sink has passed.
RAISE = Script(
    _BEFORE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[1] == '0-0' then return '0-0' end
  redis.call('XGROUP', 'CREATE', KEYS[1], 'raised', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'raised')
end
local last = newest(KEYS[1])
if before(last, ARGV[1]) then
  redis.call('XSETID', KEYS[1], ARGV[1])
  return ARGV[1]
end
return last
"""
)

# KEYS lease   ARGV token, ms -> 1 where the lease is the token's now
HOLD = Script(
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)

# KEYS lease   ARGV token
RELEASE = Script(
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
)

# KEYS lease, sunk   ARGV token, id, seconds that it protects for -> 1, or 0 where the lease is another's
PUBLISH = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1
"""
)
