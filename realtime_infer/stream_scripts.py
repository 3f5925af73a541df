"""The Lua scripts of the push stream. Each is atomic; each touches one partition's keys only.

Sequences are exact up to 2**53. `now` is the stream server's clock, so that statuses compare across machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

_NOW = """
local function now()
  local t = redis.call('TIME')
  return string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
end
"""


Argument = bytes | str | int


@dataclass(frozen=True)
class Script:
    """A script by its source; a server that does not hold it yet is given it."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)

    async def run(self, redis: Redis, keys: Sequence[bytes], args: Sequence[Argument]) -> Any:
        """One call -> its reply; redis-py's errors."""
        (reply,) = await self.run_many(redis, [(keys, args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run_many(
        self,
        redis: Redis,
        calls: Sequence[tuple[Sequence[bytes], Sequence[Argument]]],
        after: Sequence[Argument] = (),
    ) -> list[Any]:
        """Calls of (keys, args), then the command `after`, on one connection and in one round trip.

        The replies, an error among them where a call failed. All are sent again where the server did not
        hold the script yet, so several calls at once must be idempotent.
        """
        for command, text in (("EVALSHA", self.sha), ("EVAL", self.source)):
            pipeline = redis.pipeline(transaction=False)
            for keys, args in calls:
                pipeline.execute_command(command, text, len(keys), *keys, *args)
            if after:
                pipeline.execute_command(*after)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(reply, NoScriptError) for reply in replies):
                break
        return replies


# KEYS sequence, pushes, bytes, status   ARGV item id, payload, most entries, most bytes
# -> {sequence} or {-1, entries, bytes} where the backlog is full
ACCEPT = Script(
    _NOW
    + """
local entries = redis.call('XLEN', KEYS[2])
local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
if entries >= tonumber(ARGV[3]) or bytes + #ARGV[2] > tonumber(ARGV[4]) then
  return {-1, entries, bytes}
end
local sequence = string.format('%.0f', redis.call('INCR', KEYS[1]))
redis.call('XADD', KEYS[2], '*', 'i', ARGV[1], 's', sequence, 'p', ARGV[2])
redis.call('INCRBY', KEYS[3], #ARGV[2])
redis.call('HSET', KEYS[4], 'sequence', sequence, 'state', 'queued', 'code', '', 'reason', '',
           'updated', now())
redis.call('PERSIST', KEYS[4])
return {tonumber(sequence)}
"""
)

# KEYS sequence, gaps   ARGV at least -> the new sequence, above both. Numbers that are skipped while older
# ones may lie in the stream are remembered: this counter never gave them.
WATERMARK = Script(
    """
local current, least = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if current > 0 and least > current then
  redis.call('RPUSH', KEYS[2], string.format('%.0f %.0f', current, least))
  redis.call('LTRIM', KEYS[2], -64, -1)
end
local given = string.format('%.0f', math.max(current, least) + 1)
redis.call('SET', KEYS[1], given)
return tonumber(given)
"""
)

# KEYS status...   ARGV sequence...: queued -> encoding, where the status is of this very push
ENCODING = Script(
    _NOW
    + """
local time = now()
for i, key in ipairs(KEYS) do
  local status = redis.call('HMGET', key, 'sequence', 'state')
  if status[1] == ARGV[i] and status[2] == 'queued' then
    redis.call('HSET', key, 'state', 'encoding', 'updated', time)
  end
end
"""
)

# KEYS pushes, bytes, status, dead
# ARGV group, entry id, sequence ('' where unknown), state, code, reason, ttl s, dead letters kept
# -> 1, or 0 where the entry had its end already. Dead letter, status, ack and removal are one step.
SETTLE = Script(
    _NOW
    + """
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if #found == 0 then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  return 0
end
local fields, size = found[1][2], 0
for i = 1, #fields, 2 do
  if fields[i] == 'p' then size = #fields[i + 1] end
end
if ARGV[4] == 'dead' then
  local letter = {'MAXLEN', '~', ARGV[8], '*', 'code', ARGV[5], 'reason', ARGV[6], 'entry', ARGV[2]}
  for _, value in ipairs(fields) do letter[#letter + 1] = value end
  redis.call('XADD', KEYS[4], unpack(letter))
end
local stored = tonumber(redis.call('HGET', KEYS[3], 'sequence') or '0')
if ARGV[3] ~= '' and stored <= tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[3], 'sequence', ARGV[3], 'state', ARGV[4], 'code', ARGV[5], 'reason', ARGV[6],
             'updated', now())
  redis.call('EXPIRE', KEYS[3], ARGV[7])
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('DECRBY', KEYS[2], size)
return 1
"""
)
