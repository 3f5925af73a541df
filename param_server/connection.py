"""Connections to Redis or Valkey: bounded pools, one translation of errors.

No message carries a URL's user or password.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import DeadlineExceeded, InvalidInput, Unavailable
from param_server.breaker import BreakerLimits
from param_server.link import Link, LinkPool
from param_server.settings import StoreSettings
from param_server.tls import tls_options, tls_reason

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


def connect(url: str, settings: StoreSettings, setting: str = "redis_url") -> Redis:
    """A client with a pool and a link (retries, breaker) of its own; replies are bytes; `await
    client.aclose()` closes the pool. setting: where the URL is from, for errors.

    Connects on first use. Raises InvalidInput where the URL or a file of its TLS cannot be used.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise InvalidInput(setting, redacted(url), f"must begin with one of {_SCHEMES}")
        if any(name.startswith("ssl_") for name, _ in parse_qsl(parts.query)):
            raise InvalidInput(setting, redacted(url), "takes no ssl_ options: set REPCENTER_REDIS_TLS_*")
        pool = LinkPool.from_url(
            url,
            link=_link(url, settings),
            max_connections=settings.max_connections,
            timeout=settings.pool_wait_s,
            socket_timeout=settings.socket_timeout_s,
            socket_connect_timeout=settings.socket_timeout_s,
            socket_read_size=_READ_BYTES,
            decode_responses=False,
            **(tls_options(settings) if parts.scheme == "rediss" else {}),
        )
    except ValueError:
        raise InvalidInput(setting, redacted(url), "is not a URL of a Redis server") from None
    return Redis.from_pool(pool)


def _link(url: str, settings: StoreSettings) -> Link:
    limits = BreakerLimits(
        failures=settings.breaker_failures,
        share=settings.breaker_share,
        window_s=settings.breaker_window_s,
        silence_s=settings.breaker_silence_s,
        open_s=settings.breaker_open_s,
        longest_open_s=settings.breaker_longest_open_s,
    )
    return Link(redacted(url), settings.redis_retries, settings.redis_retry_share, limits)


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
        missing = "connection to" if "connecting" in str(error) else "reply from"
        raise Unavailable(f"{what}: no {missing} Redis in time") from error
    except (RedisConnectionError, ResponseError, OSError) as error:
        if isinstance(error, asyncio.TimeoutError):
            raise DeadlineExceeded(f"{what}: the caller's time ran out") from error
        raise Unavailable(f"{what}: {tls_reason(error) or error}") from error
