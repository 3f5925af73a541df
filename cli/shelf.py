"""Which Redis a command speaks to: REPCENTER_REDIS_URL, else the running stack's, else an embedded one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from param_server.connection import answers, connect
from param_server.embedded import EmbeddedServer
from param_server.server import Server
from param_server.settings import StoreSettings
from realtime_infer.clients import clients

T = TypeVar("T")
ENDPOINTS_FILE = "endpoints.json"


def running_endpoints(var: Path) -> dict[str, str]:
    """What a running stack wrote to <var>/endpoints.json; empty where none runs."""
    try:
        document = json.loads((var / ENDPOINTS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in document.items()} if isinstance(document, dict) else {}


def stream_url(var: Path) -> str | None:
    """The streams' server beside the one that `shelf(var, reuse=True)` gives; None: it is the same."""
    settings = StoreSettings()
    if settings.stream_url is not None or settings.redis_url is not None:
        return settings.stream_url
    running = running_endpoints(var)
    return running.get("stream_url") if running.get("stream_url") != running.get("redis_url") else None


@contextlib.contextmanager
def shelf(var: Path, *, reuse: bool = False) -> Iterator[str]:
    """The URL of the Redis to use; an embedded server started here is stopped at the end.

    reuse: take the one of a stack that runs over `var`, if any.
    """
    settings = StoreSettings()
    if settings.redis_url is not None:
        yield settings.redis_url
        return
    running = running_endpoints(var).get("redis_url") if reuse else None
    if running is not None and asyncio.run(answers(running, settings)):
        yield running
        return
    with EmbeddedServer.start(var / "valkey") as server:
        yield server.url


def with_redis(var: Path, act: Callable[[Server], Awaitable[T]]) -> T:
    """What `act` gives for a client of the shelf's server."""

    async def run(url: str) -> T:
        redis = connect(url, StoreSettings())
        try:
            return await act(redis)
        finally:
            await redis.aclose()

    with shelf(var, reuse=True) as url:
        return asyncio.run(run(url))


def with_servers(var: Path, act: Callable[[Server, Server], Awaitable[T]]) -> T:
    """What `act` gives for clients of the table's and of the stream's server."""

    async def run(url: str) -> T:
        both = {"redis_url": url, "stream_url": stream_url(var)}
        async with clients(StoreSettings().model_copy(update=both)) as (table, stream):
            return await act(table, stream)

    with shelf(var, reuse=True) as url:
        return asyncio.run(run(url))
