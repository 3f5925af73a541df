"""Connections to Redis or Valkey: bounded pools, one translation of errors.

No message carries a URL's user or password.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import DeadlineExceeded, InvalidInput, Unavailable
from param_server.settings import StoreSettings

_SCHEMES = ("redis", "rediss", "unix")
_READ_BYTES = 1 << 18


def redacted(url: str) -> str:
    """A URL that may be shown: scheme, host, port and path, without user, password or query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
    except ValueError:
        return "(unreadable URL)"


def connect(url: str, settings: StoreSettings) -> Redis:
    """A client with a pool of its own; replies are bytes; `await client.aclose()` closes the pool.

    Connects on first use. A lost connection is tried again once, a timeout never is. When all
    connections are busy a caller waits socket_timeout_s for one, then fails.
    Raises InvalidInput where the URL cannot be used.
    """
    try:
        scheme = urlsplit(url).scheme
        if scheme not in _SCHEMES:
            raise InvalidInput("redis_url", redacted(url), f"must begin with one of {_SCHEMES}")
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.max_connections,
            timeout=settings.socket_timeout_s,
            socket_timeout=settings.socket_timeout_s,
            socket_connect_timeout=settings.socket_timeout_s,
            socket_read_size=_READ_BYTES,
            decode_responses=False,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 1, supported_errors=(RedisConnectionError,)),
        )
    except ValueError:
        raise InvalidInput("redis_url", redacted(url), "is not a URL of a Redis server") from None
    return Redis.from_pool(pool)


async def answers(url: str, settings: StoreSettings) -> bool:
    """Whether a server answers at this URL now."""
    client = connect(url, settings)
    try:
        async with redis_errors("ping"):
            await client.info("server")
    except Unavailable:
        return False
    finally:
        await client.aclose()
    return True


@asynccontextmanager
async def redis_errors(what: str) -> AsyncIterator[None]:
    """Redis errors inside the block become Unavailable; the caller's own timeout DeadlineExceeded.

    redis-py waits with asyncio.wait_for, which on Python 3.11 loses a cancellation that arrives together
    with the reply; it is raised again here, or a cancelled task would go on as if nothing had happened.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    try:
        yield
        if task is not None and task.cancelling() > cancellations:
            raise asyncio.CancelledError
    except RedisTimeoutError as error:
        raise Unavailable(f"{what}: no reply from Redis in time") from error
    except (RedisConnectionError, ResponseError, OSError) as error:
        if isinstance(error, asyncio.TimeoutError):
            raise DeadlineExceeded(f"{what}: the caller's time ran out") from error
        raise Unavailable(f"{what}: {error}") from error
