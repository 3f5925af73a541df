"""Thousands of commands in one round trip: packed without a step of Python per command, their replies taken
from the C parser in one go.

The client's own pipeline costs several times the round trip itself at a thousand commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, cast

from hiredis import PushNotification
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.items import MAX_ID_BYTES
from param_server.keys import Family

_ORDINARY = {bytes, type(None), list}
_LENGTHS = tuple(b"$%d" % size for size in range(MAX_ID_BYTES + 1))


def pack_hget(family: Family, ids: Sequence[bytes]) -> bytes:
    """One HGET per id, in the Redis protocol. ids: 1 to MAX_ID_BYTES bytes each, at least one."""
    head = b"*3\r\n$4\r\nHGET\r\n$%d\r\n" % family.key_bytes
    lines = [b""] * (3 * len(ids))
    lines[0::3] = family.keys(family.buckets_of(ids), head)
    lines[1::3] = map(_LENGTHS.__getitem__, map(len, ids))
    lines[2::3] = ids
    return b"\r\n".join(lines) + b"\r\n"


async def hget(redis: Redis, families: Sequence[Family], ids: Sequence[bytes]) -> list[bytes | None]:
    """The rows of all ids in the first family, then in the next, in one round trip; None where absent.

    ids: 1 to MAX_ID_BYTES bytes each, at least one. Raises what the client raises.
    """
    return await _strings(
        redis, b"".join([pack_hget(family, ids) for family in families]), len(families) * len(ids)
    )


async def hget_each(redis: Redis, names: Sequence[bytes], field: bytes) -> list[bytes | None]:
    """One field of each of these hashes, at least one, in one round trip; None where absent."""
    head, tail = b"*3\r\n$4\r\nHGET\r\n", b"$%d\r\n%s\r\n" % (len(field), field)
    packed = b"".join([b"%s$%d\r\n%s\r\n%s" % (head, len(name), name, tail) for name in names])
    return await _strings(redis, packed, len(names))


async def _strings(redis: Redis, packed: bytes, count: int) -> list[bytes | None]:
    replies = await exchange(redis, packed, count)
    if not {bytes, type(None)}.issuperset(map(type, replies)):
        raise_error(replies)
        raise ResponseError("HGET gave a reply that is neither a string nor nil")
    return cast(list[bytes | None], replies)


def raise_error(replies: Sequence[Any]) -> None:
    """Raise the first reply that is an error, if any is."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


async def exchange(redis: Redis, packed: bytes, count: int) -> list[Any]:
    """Send packed commands on one connection of the pool and read their `count` replies, at least one.

    An error among the replies is an exception, not raised. A lost connection is tried again as
    the client's retries say. A connection whose replies were not all read is closed, never used again. Raises
    what the client raises.
    """
    pool: Any = redis.connection_pool  # untyped in redis-py
    connection = await pool.get_connection()

    async def once() -> list[Any]:
        try:
            await connection.send_packed_command([packed])
            return await _read(connection, count)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def lost(_: Exception) -> None:
        await connection.disconnect(nowait=True)

    try:
        return cast(list[Any], await connection.retry.call_with_retry(once, lost))
    finally:
        await pool.release(connection)


async def _read(connection: Any, count: int) -> list[Any]:
    """`count` replies within the connection's timeout, straight from its hiredis reader."""
    parser = connection._parser
    replies: list[Any] = []
    gets = partial(parser._reader.gets, False)
    try:
        async with asyncio.timeout(connection.socket_timeout):
            while True:
                replies += islice(iter(gets, NOT_ENOUGH_DATA), count - len(replies))
                if len(replies) < count:
                    await parser.read_from_socket()
                elif _ORDINARY.issuperset(map(type, replies)):
                    return replies
                elif any(isinstance(reply, PushNotification) for reply in replies):  # RESP3: not asked for
                    replies = [reply for reply in replies if not isinstance(reply, PushNotification)]
                else:
                    break
    except TimeoutError as error:  # asyncio's; the caller's own arrives as a cancellation
        raise RedisTimeoutError("Timeout reading from the server") from error
    except OSError as error:
        raise RedisConnectionError(f"Error while reading from the server: {error}") from error
    for reply in replies:
        if isinstance(reply, RedisConnectionError):  # such as LOADING: wait and try again
            raise reply
    return replies
