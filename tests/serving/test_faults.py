"""A store that dies: a clear 503, not ready, and by itself well again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contracts.bundle import Bundle
from contracts.errors import InvalidInput, Unavailable
from contracts.request import ScoreRequest
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.serving.conftest import WITH_CONTENT, fill, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, so that a restarted server has the same socket."""
    with tempfile.TemporaryDirectory(prefix="rc-") as path:
        yield Path(path)


async def test_a_killed_store_is_503_until_it_is_back(
    directory: Path, bundles: tuple[Bundle, Bundle], scorer_settings: ScorerSettings
) -> None:
    server = EmbeddedServer.start(directory)
    settings = StoreSettings(redis_url=server.url, socket_timeout_s=0.5)
    redis = connect_one(server.url, settings)
    await fill(redis, bundles[0])
    request = ScoreRequest(WITH_CONTENT)
    scorer_settings = scorer_settings.model_copy(update={"cache_bytes": 0})  # cached: test_cached_rows.py
    try:
        async with (
            open_scorer(scorer_settings, settings) as running,
            HttpClient(running.http_url) as http,
            GrpcClient(running.grpc_target) as rpc,
            httpx.AsyncClient(base_url=running.http_url) as raw,
            grpc.aio.insecure_channel(running.grpc_target) as channel,
        ):
            await until(running.readiness.is_ready)
            before = await http.score(request)
            assert (await raw.get("/health/startup")).status_code == 200
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="repcenter.v1.Scorer")
            )
            states = [(await watch.read()).status]
            if states == [NOT_SERVING]:
                states = [(await watch.read()).status]
            assert states == [SERVING]
            server.kill()
            for client in (http, rpc):
                with pytest.raises(Unavailable):
                    await client.score(request)
            ready = await raw.get("/health/ready")
            assert ready.status_code == 503
            assert ready.headers["content-type"] == "application/problem+json"
            assert ready.json()["type"] == "urn:repcenter:problem:unavailable"
            assert (await raw.get("/v1/generations")).status_code == 503
            assert (await raw.get("/health/live")).status_code == 200
            assert (await raw.get("/health/startup")).json() == {"status": "started"}  # once is enough
            assert (await watch.read()).status == NOT_SERVING
            server = EmbeddedServer.start(directory)
            await until(running.readiness.is_ready)
            assert (await watch.read()).status == SERVING
            for client in (http, rpc):
                after = await client.score(request)
                assert after.scores.tolist() == before.scores.tolist()
            assert (await raw.get("/health/ready")).status_code == 200
            watch.cancel()
    finally:
        await redis.aclose()
        server.stop()


async def test_a_scorer_without_generation_is_alive_but_not_ready(
    directory: Path, scorer_settings: ScorerSettings
) -> None:
    with EmbeddedServer.start(directory) as server:
        settings = StoreSettings(redis_url=server.url)
        async with (
            open_scorer(scorer_settings, settings) as running,
            httpx.AsyncClient(base_url=running.http_url) as raw,
        ):
            assert (await raw.get("/health/live")).json() == {"status": "live"}
            assert (await raw.get("/health/startup")).status_code == 503
            ready = await raw.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, 503)
            assert "'default' has no loaded generation" in ready.json()["detail"]
            assert (await raw.post("/v1/score", json={"candidates": ["a"]})).status_code == 503


async def test_the_store_must_be_named(scorer_settings: ScorerSettings) -> None:
    with pytest.raises(InvalidInput, match="REPCENTER_REDIS_URL"):
        async with open_scorer(scorer_settings, StoreSettings(redis_url=None)):
            pass
