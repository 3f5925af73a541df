"""A real Valkey for the whole test session, and a clean client of it for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer.start(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def settings(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> StoreSettings:
    return StoreSettings(redis_url=server.url, stream_url=None, var_dir=tmp_path_factory.mktemp("var"))


@pytest_asyncio.fixture
async def redis(server: EmbeddedServer, settings: StoreSettings) -> AsyncIterator[Redis]:
    client = connect_one(server.url, settings)
    await client.flushall()
    yield client
    await client.aclose()
