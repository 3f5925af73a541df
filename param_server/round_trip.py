"""Packed commands on one connection, their replies taken from the C parser in one go.

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
from redis.exceptions import TimeoutError as RedisTimeoutError

_ORDINARY = {bytes, type(None), list}


def raise_error(replies: Sequence[Any]) -> None:
    """Raise the first reply that is an error, if any is."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


async def round_trip(redis: Redis, packed: bytes, count: int) -> list[Any]:
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
