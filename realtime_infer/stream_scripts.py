"""The Lua scripts of the push stream. Each is atomic; each touches one partition's keys only.

Sequences are exact up to 2**53. `now` is the stream server's clock, so that statuses compare across machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from param_server.commands import Commands, Replies, pack, slots_of
from param_server.replicas import write
from param_server.round_trip import raise_error
from param_server.server import Server, send

_NOW = """
local function now()
  local t = redis.call('TIME')
  return string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
end
"""


Argument = bytes | str | int
Call = tuple[Sequence[bytes], Sequence[Argument]]  # KEYS, all of one slot, at least one; ARGV


@dataclass(frozen=True)
class Script:
    """A script by its source; a server that does not hold it yet is given it."""

    source: str
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest.encode())

    async def run(self, server: Server, keys: Sequence[bytes], args: Sequence[Argument]) -> Any:
        """One call -> its reply; redis-py's errors."""
        (reply,) = await self.run_all(server, [(keys, args)])
        return reply

    async def run_all(self, server: Server, calls: Sequence[Call]) -> list[Any]:
        """Idempotent calls in one round trip -> their replies; the first error is raised."""
        replies = (await send(server, self._commands(calls))).values
        raise_error(replies)
        return replies

    async def write(self, server: Server, calls: Sequence[Call], after: Sequence[bytes] = ()) -> Replies:
        """Calls and then the packed commands `after`, on each of their connections, once enough replicas have
        what they wrote -> replies; an error in place of one where not all calls failed, and of `after`. A
        call is sent again where the script was not held yet, or as `send` says. Raises redis-py's errors and
        Unavailable."""
        return await write(server, self._commands(calls), after, partly=True)

    def _commands(self, calls: Sequence[Call]) -> Commands:
        lines = [
            pack([b"EVALSHA", self.sha, b"%d" % len(keys), *keys, *map(_bytes, args)]) for keys, args in calls
        ]
        return Commands(lines, slots_of([keys[0] for keys, _ in calls]), script=self.source)


def _bytes(argument: Argument) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


# Both scripts that accept work on KEYS sequence, pushes, bytes, (4), staged, node, gaps.
# After a failover the counter may lack the last numbers that it gave, and they may be in the table: a node
# that has not numbered for this partition before leaves more out than can have been lost. On a server that is
# no cluster's nothing of this happens.
# full() -> {-1, entries, bytes} where the backlog is full. An empty partition takes any one payload.
# add() -> the sequence given, as text
_ADD = """
local node = redis.pcall('CLUSTER', 'MYID')
if type(node) == 'string' and redis.call('GET', KEYS[6]) ~= node then
  local current = tonumber(redis.call('GET', KEYS[1]) or '0')
  if current > 0 then
    local top = string.format('%.0f', current + 65536)
    if redis.call('LLEN', KEYS[7]) > 0 then
      redis.call('RPUSH', KEYS[7], string.format('%.0f ', current) .. top)
      redis.call('LTRIM', KEYS[7], -64, -1)
    end
    redis.call('SET', KEYS[1], top)
  end
  redis.call('SET', KEYS[6], node)
end
local function full(size, most_entries, most_bytes)
  local entries = redis.call('XLEN', KEYS[2])
  local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
  if entries >= tonumber(most_entries) or (entries > 0 and bytes + size > tonumber(most_bytes)) then
    return {-1, entries, bytes}
  end
end
local function add(status, item, payload, inline)
  local sequence = string.format('%.0f', redis.call('INCR', KEYS[1]))
  if #payload <= tonumber(inline) then
    redis.call('XADD', KEYS[2], '*', 'i', item, 's', sequence, 'p', payload)
  else
    local entry = redis.call('XADD', KEYS[2], '*', 'i', item, 's', sequence, 'n', #payload)
    redis.call('HSET', KEYS[5], entry, payload)
  end
  redis.call('INCRBY', KEYS[3], #payload)
  redis.call('HSET', status, 'sequence', sequence, 'state', 'queued', 'code', '', 'reason', '',
             'updated', now())
  redis.call('PERSIST', status)
  return sequence
end
"""

# KEYS sequence, pushes, bytes, receipts, staged, node, gaps, receipt_end, status...: one per push
# ARGV most entries, most bytes, most bytes of a payload inside its entry, most receipts, how long one is
#      kept in ms, then per push: item id, payload, unit, digest of its idempotency key and of the payload
#      (16 bytes, '' where it has no key)
# -> per push {sequence}, {sequence, 1} where the key was known, {-1, entries, bytes} where the backlog is
#    full, {-2, sequence} where the key is of another payload. Once one of a unit finds the backlog full, so
#    do all that follow it: what is sent again then overtakes nothing.
ACCEPT = Script(
    _NOW
    + _ADD
    + """
local time = tonumber(now())
local function forget_expired()
  while true do
    local oldest = redis.call('LRANGE', KEYS[8], 0, 0)[1]
    if not oldest or tonumber(string.sub(oldest, 17)) > time then return end
    redis.call('LTRIM', KEYS[8], 1, -1)
    redis.call('HDEL', KEYS[4], string.sub(oldest, 1, 16))
  end
end
local function remember(key, digest, sequence)
  redis.call('HSET', KEYS[4], key, digest .. sequence)
  local kept = redis.call('RPUSH', KEYS[8], key .. string.format('%.0f', time + tonumber(ARGV[5])))
  while kept > tonumber(ARGV[4]) do
    redis.call('HDEL', KEYS[4], string.sub(redis.call('LRANGE', KEYS[8], 0, 0)[1], 1, 16))
    redis.call('LTRIM', KEYS[8], 1, -1)
    kept = kept - 1
  end
end
local refused, out = {}, {}
for i = 9, #KEYS do
  local at = 6 + (i - 9) * 5
  local payload, unit, key, digest = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local known
  if key ~= '' then
    forget_expired()
    known = redis.call('HGET', KEYS[4], key)
  end
  if known then
    local sequence = tonumber(string.sub(known, 17))
    if string.sub(known, 1, 16) == digest then
      redis.call('HSET', KEYS[4], key, known)  -- a write: what waits for the disk waits for the push too
      out[#out + 1] = {sequence, 1}
    else
      out[#out + 1] = {-2, sequence}
    end
  else
    refused[unit] = refused[unit] or full(#payload, ARGV[1], ARGV[2])
    if refused[unit] then
      out[#out + 1] = refused[unit]
    else
      local sequence = add(KEYS[i], ARGV[at], payload, ARGV[3])
      if key ~= '' then remember(key, digest, sequence) end
      out[#out + 1] = {tonumber(sequence)}
    end
  end
end
return out
"""
)

# KEYS sequence, pushes, bytes, status, staged, node, gaps, dead, dead_staged, dead_bytes
# ARGV letter id, most entries, most bytes, most bytes of a payload inside its entry, '1': over newer pushes
# -> {sequence}, {-1, entries, bytes} as ACCEPT, {-2} no such letter, {-3, sequence} a newer push was
#    accepted, {-4} it is no push
REPLAY = Script(
    _NOW
    + _ADD
    + """
local found = redis.call('XRANGE', KEYS[8], ARGV[1], ARGV[1])
if #found == 0 then return {-2} end
local item, sequence
for i = 1, #found[1][2], 2 do
  if found[1][2][i] == 'i' then item = found[1][2][i + 1] end
  if found[1][2][i] == 's' then sequence = tonumber(found[1][2][i + 1]) end
end
local payload = redis.call('HGET', KEYS[9], ARGV[1])
if not (item and sequence and payload) then return {-4} end
local newest = tonumber(redis.call('HGET', KEYS[4], 'sequence') or '0')
if ARGV[5] ~= '1' and newest > sequence then return {-3, newest} end
local refused = full(#payload, ARGV[2], ARGV[3])
if refused then return refused end
redis.call('XDEL', KEYS[8], ARGV[1])
redis.call('HDEL', KEYS[9], ARGV[1])
redis.call('DECRBY', KEYS[10], #payload)
return {tonumber(add(KEYS[4], item, payload, ARGV[4]))}
"""
)

# KEYS dead, dead_staged, dead_bytes   ARGV letter id -> 1, or 0 where it is gone
DROP = Script(
    """
local gone = redis.call('XDEL', KEYS[1], ARGV[1])
if gone == 1 then
  redis.call('DECRBY', KEYS[3], redis.call('HSTRLEN', KEYS[2], ARGV[1]))
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return gone
"""
)

# KEYS sequence, gaps   ARGV least -> the counter, now at `least` or above. Numbers that are skipped are
# remembered: this counter never gave them, and older ones may lie in the stream.
RAISE = Script(
    """
local current = tonumber(redis.call('GET', KEYS[1]) or '0')
local top = string.format('%.0f', math.max(current, tonumber(ARGV[1])))
redis.call('RPUSH', KEYS[2], string.format('%.0f', current) .. ' ' .. top)
redis.call('LTRIM', KEYS[2], -64, -1)
redis.call('SET', KEYS[1], top)
return tonumber(top)
"""
)

# KEYS sequence, gaps   ARGV least -> least + 1, which no push has, or -1 where the counter is beyond `least`
WATERMARK = Script(
    """
local current, least = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if current > least then
  return -1
end
if current > 0 and least > current then
  redis.call('RPUSH', KEYS[2], string.format('%.0f %.0f', current, least))
  redis.call('LTRIM', KEYS[2], -64, -1)
end
redis.call('SET', KEYS[1], string.format('%.0f', least + 1))
return least + 1
"""
)

# KEYS status...   ARGV sequence...: queued -> encoding, where the status is of this very push
# -> of each the sequence and the content digest of the push that was made a record last, '' where unknown
ENCODING = Script(
    _NOW
    + """
local time, made = now(), {}
for i, key in ipairs(KEYS) do
  local status = redis.call('HMGET', key, 'sequence', 'state', 'made', 'content')
  made[2 * i - 1], made[2 * i] = status[3] or '', status[4] or ''
  if status[1] == ARGV[i] and status[2] == 'queued' then
    redis.call('HSET', key, 'state', 'encoding', 'updated', time)
  end
end
return made
"""
)

# KEYS pushes, bytes, status, staged, dead, dead_staged, dead_bytes
# ARGV group, entry id, sequence ('' where unknown), state, code, reason, ttl s, most letters, most bytes of
# all letters, digest of the content that is a record now under this sequence ('' where that is unsure)
# -> letters that had to go, or -1 where the entry had its end already. Dead letter, status, ack and removal
# are one step. The newest letter stays, however large it is.
SETTLE = Script(
    _NOW
    + """
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if #found == 0 then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  return -1
end
local fields, payload, trimmed = found[1][2], nil, 0
local size = redis.call('HSTRLEN', KEYS[4], ARGV[2])
local letter = {'code', ARGV[5], 'reason', ARGV[6], 'entry', ARGV[2]}
for i = 1, #fields, 2 do
  if fields[i] == 'p' then
    payload, size = fields[i + 1], #fields[i + 1]
  elseif fields[i] ~= 'n' then
    letter[#letter + 1] = fields[i]
    letter[#letter + 1] = fields[i + 1]
  end
end
if ARGV[4] == 'dead' then
  payload = payload or redis.call('HGET', KEYS[4], ARGV[2])
  letter[#letter + 1] = 'n'
  letter[#letter + 1] = size
  local id = redis.call('XADD', KEYS[5], '*', unpack(letter))
  if payload then redis.call('HSET', KEYS[6], id, payload) end
  local bytes = redis.call('INCRBY', KEYS[7], size)
  local letters = redis.call('XLEN', KEYS[5])
  while letters > 1 and (letters > tonumber(ARGV[8]) or bytes > tonumber(ARGV[9])) do
    local oldest = redis.call('XRANGE', KEYS[5], '-', '+', 'COUNT', 1)[1][1]
    bytes = redis.call('DECRBY', KEYS[7], redis.call('HSTRLEN', KEYS[6], oldest))
    redis.call('HDEL', KEYS[6], oldest)
    redis.call('XDEL', KEYS[5], oldest)
    letters, trimmed = letters - 1, trimmed + 1
  end
end
local stored = tonumber(redis.call('HGET', KEYS[3], 'sequence') or '0')
if ARGV[3] ~= '' and stored <= tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[3], 'sequence', ARGV[3], 'state', ARGV[4], 'code', ARGV[5], 'reason', ARGV[6],
             'updated', now())
  redis.call('EXPIRE', KEYS[3], ARGV[7])
end
if ARGV[10] ~= '' and tonumber(redis.call('HGET', KEYS[3], 'made') or '0') < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[3], 'made', ARGV[3], 'content', ARGV[10])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('HDEL', KEYS[4], ARGV[2])
if redis.call('DECRBY', KEYS[2], size) < 0 then redis.call('SET', KEYS[2], '0') end
return trimmed
"""
)
