"""The two servers that pushes pass: the stream's and the tables'."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import Redis

from contracts.errors import InvalidInput
from param_server.connection import connect, connect_one
from param_server.server import Server
from param_server.settings import StoreSettings


@contextlib.asynccontextmanager
async def clients(settings: StoreSettings) -> AsyncIterator[tuple[Server, Redis]]:
    """Clients of the table's and of the stream's server; one and the same where they share it."""
    if settings.redis_url is None:
        raise InvalidInput("redis_url", None, "doors and workers share a store: set REPCENTER_REDIS_URL")
    async with contextlib.AsyncExitStack() as closing:
        table = connect(settings.redis_url, settings)
        closing.push_async_callback(table.aclose)
        if settings.stream_url is not None:
            stream = connect_one(settings.stream_url, settings, "stream_url")
            closing.push_async_callback(stream.aclose)
        elif isinstance(table, Redis):
            stream = table
        else:
            raise InvalidInput(
                "stream_url", None, "tables on a cluster need a server of their own for streams"
            )
        yield table, stream
