"""MGET of thousands of keys that share a prefix, packed in one go.

The client's own packing costs about as much as the whole round trip at a thousand keys; here a key and
its length come from a table of heads, so packing is one concatenation per key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from redis.asyncio import Redis

from contracts.items import MAX_ID_BYTES


@lru_cache(maxsize=64)
def _heads(prefix: bytes) -> tuple[bytes, ...]:
    """By length of the id: what stands before the id in a command, the end of the last line first."""
    return tuple(b"\r\n$%d\r\n%s" % (len(prefix) + size, prefix) for size in range(MAX_ID_BYTES + 1))


def pack_mget(prefixes: Sequence[bytes], ids: Sequence[bytes]) -> bytes:
    """One MGET, in the Redis protocol, of every id under the first prefix, then under the next, and so on."""
    parts = [b"*%d\r\n$4\r\nMGET" % (1 + len(prefixes) * len(ids))]
    for prefix in prefixes:
        heads = _heads(prefix)
        parts += [heads[len(i)] + i for i in ids]
    parts.append(b"\r\n")
    return b"".join(parts)


async def mget(redis: Redis, prefixes: Sequence[bytes], ids: Sequence[bytes]) -> list[bytes | None]:
    """Values of len(prefixes) * len(ids) keys in one round trip, prefix by prefix; None where absent.

    ids: 1 to MAX_ID_BYTES bytes each, at least one. Raises what the client raises.
    """
    command = pack_mget(prefixes, ids)
    pool: Any = redis.connection_pool  # untyped in redis-py
    connection = await pool.get_connection()

    async def exchange() -> Any:
        await connection.send_packed_command([command])
        return await connection.read_response(disable_decoding=True)

    async def lost(_: Exception) -> None:
        await connection.disconnect()

    try:
        return cast(list[bytes | None], await connection.retry.call_with_retry(exchange, lost))
    finally:
        await pool.release(connection)
