"""Connections to Redis or Valkey: bounded pools, one translation of errors.

No message carries a URL's user or password.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from urllib.parse import SplitResult, parse_qsl, urlsplit

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import DeadlineExceeded, InvalidInput, NotPermitted, Unavailable
from param_server.access import missing_rule
from param_server.breaker import BreakerLimits
from param_server.cluster import Cluster
from param_server.link import Link, LinkPool
from param_server.replicas import Wait, wait_for
from param_server.server import Server, primaries
from param_server.settings import StoreSettings
from param_server.slot_map import Address
from param_server.tls import tls_options, tls_reason

_SCHEMES = ("redis", "rediss", "unix")
_CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_PORT = 6379
_READ_BYTES = 1 << 18
Spans = Callable[[str], AbstractContextManager[None]]
_spans: Spans | None = None  # of the process; where there is no tracing a read costs one comparison


def redacted(url: str) -> str:
    """A URL that may be shown: scheme, hosts, ports and path, without user, password or query."""
    try:
        parts = _split(url)
        hosts = ",".join(f"{host}:{port}" if port else host for host, port in _addresses(url))
        return f"{parts.scheme}://{hosts}{parts.path}"
    except ValueError:
        return "(unreadable URL)"


def connect(url: str, settings: StoreSettings, setting: str = "redis_url") -> Server:
    """A client with a pool and a link (retries, breaker) of its own, of a cluster for each node; replies are
    bytes; `await client.aclose()` closes the pools. setting: where the URL is from, for errors.

    Connects on first use. Writes of tables wait for wait_replicas. Raises InvalidInput where the URL or a
    file of its TLS cannot be used.
    """
    if settings.wait_replicas and settings.wait_timeout_ms >= 1_000 * settings.socket_timeout_s:
        raise InvalidInput("wait_timeout_ms", settings.wait_timeout_ms, "must be less than socket_timeout_s")
    client: Server
    try:
        parts = _split(url)
        if any(name.startswith("ssl_") for name, _ in parse_qsl(parts.query)):
            raise InvalidInput(setting, redacted(url), "takes no ssl_ options: set REPCENTER_REDIS_TLS_*")
        if parts.scheme in _CLUSTER_SCHEMES:
            client = _cluster(url, settings, setting)
        elif parts.scheme in _SCHEMES:
            client = _client(url, settings)
        else:
            schemes = _SCHEMES + _CLUSTER_SCHEMES
            raise InvalidInput(setting, redacted(url), f"must begin with one of {schemes}")
    except ValueError:
        raise InvalidInput(setting, redacted(url), "is not a URL of a Redis server") from None
    wait_for(client, Wait(settings.wait_replicas, settings.wait_timeout_ms))
    return client


def connect_one(url: str, settings: StoreSettings, setting: str = "redis_url") -> Redis:
    """A client of one server, as connect() makes it; InvalidInput for a cluster's URL."""
    client = connect(url, settings, setting)
    if isinstance(client, Cluster):
        raise InvalidInput(setting, redacted(url), "is a cluster's; one server is needed here")
    return client


def _client(url: str, settings: StoreSettings) -> Redis:
    """Of one server, or one node."""
    pool = LinkPool.from_url(
        url,
        link=_link(url, settings),
        max_connections=settings.max_connections,
        timeout=settings.pool_wait_s,
        socket_timeout=settings.socket_timeout_s,
        socket_connect_timeout=settings.socket_timeout_s,
        socket_read_size=_READ_BYTES,
        decode_responses=False,
        **(tls_options(settings) if urlsplit(url).scheme == "rediss" else {}),
    )
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


def _cluster(url: str, settings: StoreSettings, setting: str) -> Cluster:
    scheme, netloc, path, query, _ = _split(url)
    if path not in ("", "/", "/0"):
        raise InvalidInput(setting, redacted(url), "a cluster has no databases but 0")
    user, at, _ = netloc.rpartition("@")
    seeds = [(host, port or _PORT) for host, port in _addresses(url)]

    def node(address: Address) -> Redis:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        one = f"{scheme.partition('+')[0]}://{user}{at}{host}:{address[1]}"
        return _client(f"{one}?{query}" if query else one, settings)

    return Cluster(seeds, node, settings.cluster_retry_s)


def _split(url: str) -> SplitResult:
    """urlsplit, which in newer Pythons takes no host in brackets behind other hosts."""
    scheme, _, rest = url.partition("://")
    if scheme not in _CLUSTER_SCHEMES:
        return urlsplit(url)
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    return urlsplit(f"{scheme}://{rest[len(netloc) :]}")._replace(netloc=netloc)


def _addresses(url: str) -> list[tuple[str, int | None]]:
    """The hosts and ports of a URL, of a cluster several between commas; ValueError."""
    scheme, netloc, *_ = _split(url)
    hosts = netloc.rpartition("@")[2]
    split = [urlsplit(f"//{host}") for host in (hosts.split(",") if scheme in _CLUSTER_SCHEMES else [hosts])]
    if scheme in _CLUSTER_SCHEMES and not all(part.hostname for part in split):
        raise ValueError("a host is empty")
    return [(part.hostname or "", part.port) for part in split]


async def answers(url: str, settings: StoreSettings) -> bool:
    """Whether a server answers at this URL now."""
    client = connect(url, settings)
    try:
        async with redis_errors("ping"):
            for node in (await primaries(client)).values():
                await node.info("server")
    except Unavailable:
        return False
    finally:
        await client.aclose()
    return True


@contextmanager
def redis_spans(spans: Spans) -> Iterator[None]:
    """Inside, each thing that this process asks of Redis is done within `spans(what it is)`."""
    global _spans
    _spans = spans
    try:
        yield
    finally:
        _spans = None


@asynccontextmanager
async def redis_errors(what: str) -> AsyncIterator[None]:
    """Redis errors inside the block become Unavailable; the caller's own timeout DeadlineExceeded.

    redis-py waits with asyncio.wait_for, which on Python 3.11 loses a cancellation that arrives together
    with the reply; it is raised again here, or a cancelled task would go on as if nothing had happened.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    try:
        with nullcontext() if _spans is None else _spans(what):
            yield
        if task is not None and task.cancelling() > cancellations:
            raise asyncio.CancelledError
    except RedisTimeoutError as error:
        missing = "connection to" if "connecting" in str(error) else "reply from"
        raise Unavailable(f"{what}: no {missing} Redis in time") from error
    except (RedisConnectionError, ResponseError, OSError) as error:
        if isinstance(error, asyncio.TimeoutError):
            raise DeadlineExceeded(f"{what}: the caller's time ran out") from error
        if (rule := missing_rule(error)) is not None:
            raise NotPermitted(f"{what}: {rule} ({error})") from error
        raise Unavailable(f"{what}: {tls_reason(error) or error}") from error
