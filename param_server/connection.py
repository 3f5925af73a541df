"""Connections to Redis or Valkey: bounded pools, one translation of errors, start-up checks of the server.

No message carries a URL's user or password.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import DeadlineExceeded, InvalidInput, Unavailable
from contracts.items import MAX_ID_BYTES
from contracts.space import ROWS_PER_BUCKET
from param_server.settings import StoreSettings

log = logging.getLogger(__name__)

_SCHEMES = ("redis", "rediss", "unix")
_READ_BYTES = 1 << 18
VALUE_LIMIT, ENTRIES_LIMIT = "hash-max-listpack-value", "hash-max-listpack-entries"
LISTPACK_VALUE = 8_192  # bytes: the largest record is about 7,400
LISTPACK_ENTRIES = 512
LEAST_ENTRIES = 4 * ROWS_PER_BUCKET  # a catalogue may outgrow the count that its space was made for

Durability = Literal["always", "waitaof"]


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


async def check_policy(redis: Redis) -> None:
    """Refuse a server whose maxmemory-policy would evict rows (allkeys-*). Ours never expire, so volatile-*
    cannot touch them. Raises Unavailable with the command that fixes it."""
    async with redis_errors("read the memory policy"):
        memory = await redis.info("memory")
    policy = str(memory.get("maxmemory_policy", "unknown"))
    if policy.startswith("allkeys-"):
        raise Unavailable(
            f"maxmemory-policy is {policy}: the server would drop rows and scores would go wrong unseen; "
            "run: CONFIG SET maxmemory-policy noeviction"
        )


async def check_layout(redis: Redis, row_bytes: int) -> None:
    """Refuse a server that would store rows of so many bytes as hash tables, not as packed blocks: right,
    but a third larger.

    Raises Unavailable with the command that fixes it. Where the server hides its settings, as managed ones
    do, that is logged: the operator has to see to them.
    """
    least = {VALUE_LIMIT: max(row_bytes, MAX_ID_BYTES), ENTRIES_LIMIT: LEAST_ENTRIES}
    fix = {VALUE_LIMIT: max(LISTPACK_VALUE, row_bytes), ENTRIES_LIMIT: LISTPACK_ENTRIES}
    async with redis_errors("read the settings of hashes"):
        try:
            config = await redis.config_get("hash-max-listpack-*")
        except ResponseError as error:
            log.warning(
                "CONFIG GET is refused (%s), so the layout of hashes cannot be checked; see to it that %s",
                error,
                " and ".join(f"{name} is at least {value}" for name, value in least.items()),
            )
            return
    found = {_text(name): int(_text(value)) for name, value in dict(config).items()}
    small = [name for name, value in least.items() if found.get(name, 0) < value]
    if small:
        raise Unavailable(
            f"{small[0]} is {found.get(small[0], 'unknown')}, rows need {least[small[0]]}: the server would "
            f"keep them as hash tables; run: CONFIG SET {' '.join(f'{name} {fix[name]}' for name in small)}"
        )


async def check_durable(redis: Redis) -> Durability:
    """How a write becomes durable before it is acknowledged.

    "always": each write is on disk before its reply (appendfsync always). "waitaof": appendfsync
    everysec and WAITAOF, to be sent on the connection of the write. Raises Unavailable with the
    command that fixes it.
    """
    async with redis_errors("read the persistence settings"):
        config = await _config(redis, "append*")
        appendonly, fsync = config.get("appendonly"), config.get("appendfsync")
        if appendonly != "yes":
            raise Unavailable(
                f"appendonly is {appendonly}: what is acknowledged would be lost with the process; "
                "run: CONFIG SET appendonly yes appendfsync always"
            )
        if fsync == "always":
            return "always"
        if fsync == "everysec" and await _has_command(redis, "WAITAOF"):
            return "waitaof"
    raise Unavailable(
        f"appendfsync is {fsync}: what is acknowledged may be lost with the machine; "
        "run: CONFIG SET appendfsync always"
    )


async def _config(redis: Redis, pattern: str) -> dict[str, str]:
    try:
        reply = await redis.config_get(pattern)
    except ResponseError as error:
        raise Unavailable(
            f"CONFIG GET is refused ({error}), so durability cannot be checked; run: "
            "ACL SETUSER <user> +config|get"
        ) from error
    return {_text(name): _text(value) for name, value in dict(reply).items()}


async def _has_command(redis: Redis, name: str) -> bool:
    known = await redis.command_list(category=None, pattern=name)
    return len(known) == 1


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
