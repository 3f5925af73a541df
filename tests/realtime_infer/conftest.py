"""A real encoder, a write door over real sockets, and workers, all over the session's Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch
from redis.asyncio import Redis

from contracts.bundle import Bundle
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import RunningDoor, open_door
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import PARTITIONS
from tests.encoder_bundle import make_encoder_bundle


async def entries(redis: Redis, stream: bytes) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """All of a stream."""
    found: Any = await redis.xrange(stream)
    return list(found)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_encoder_bundle(tmp_path_factory.mktemp("encoder") / "bundle")


@pytest.fixture(scope="session")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder.open(str(bundle.path), bundle.digest)


@pytest.fixture
def encoder_settings(bundle: Bundle) -> EncoderSettings:
    """Free ports, a bundle by name, quick windows and reclaims."""
    return EncoderSettings(
        encoder_uri=str(bundle.path),
        http_port=0,
        grpc_port=0,
        window_ms=5,
        reclaim_idle_ms=300,
        scene_poll_s=0.05,
        consumer="worker-1",
        stop_s=2.0,
    )


@pytest_asyncio.fixture
async def redis(redis: Redis) -> Redis:
    """The stream has one partition, to look into; `test_partitions` has several."""
    await redis.set(PARTITIONS, 1)
    return redis


@pytest.fixture
def ingest(redis: Redis, encoder_settings: EncoderSettings) -> Ingest:
    return Ingest(redis, encoder_settings)


@pytest_asyncio.fixture
async def store(redis: Redis, encoder: Encoder) -> Store:
    """A store with the encoder's space."""
    made = Store(redis)
    await made.create_space(encoder.space)
    return made


@pytest_asyncio.fixture
async def door(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> AsyncIterator[RunningDoor]:
    async with open_door(encoder_settings, settings) as running:
        yield running


@pytest_asyncio.fixture
async def http(door: RunningDoor) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=door.http_url, timeout=15) as client:
        yield client
