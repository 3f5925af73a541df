"""The two servers that pushes pass: the stream's and the tables'."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from contracts.errors import InvalidInput
from param_server.connection import connect
from param_server.server import Server
from param_server.settings import StoreSettings


@contextlib.asynccontextmanager
async def clients(settings: StoreSettings) -> AsyncIterator[tuple[Server, Server]]:
    """Clients of the table's and of the stream's server; one and the same where they share it."""
    if settings.redis_url is None:
        raise InvalidInput("redis_url", None, "doors and workers share a store: set REPCENTER_REDIS_URL")
    async with contextlib.AsyncExitStack() as closing:
        table = connect(settings.redis_url, settings)
        closing.push_async_callback(table.aclose)
        if settings.stream_url is None:
            yield table, table
            return
        stream = connect(settings.stream_url, settings, "stream_url")
        closing.push_async_callback(stream.aclose)
        yield table, stream
