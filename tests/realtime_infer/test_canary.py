"""An encoder that goes bad while it runs: not ready, nothing encoded, and in the end the process goes."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from contracts.errors import BrokenBundle
from contracts.items import Item
from param_server.settings import StoreSettings
from realtime_infer.app import open_encoder
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from tests.realtime_infer.workers import ended, until, working


class Golden:
    """In place of Encoder.check: matches until it is broken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.replays = 0
        true = Encoder.check

        def check(encoder: Encoder) -> float:
            self.replays += 1
            if self.broken:
                raise BrokenBundle("graph 'head': fused differs from golden by 0.5")
            return true(encoder)

        monkeypatch.setattr(Encoder, "check", check)


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Golden:
    return Golden(monkeypatch)


def quick(settings: EncoderSettings, failures: int) -> EncoderSettings:
    return settings.model_copy(update={"canary_s": 0.02, "canary_failures": failures})


async def test_a_worker_waits_until_its_encoder_matches_again(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings, golden: Golden
) -> None:
    async with (
        working(quick(encoder_settings, 0), settings) as running,
        httpx.AsyncClient(base_url=running.http_url, timeout=15) as http,
    ):

        async def ready() -> bool:
            return (await http.get("/health/ready")).status_code == 200

        async def not_ready() -> bool:
            return not await ready()

        await until(ready)
        golden.broken = True
        await until(not_ready)
        assert "golden" in (await http.get("/health/ready")).json()["detail"]
        await ingest.push(Item("a", {"title": "x"}))
        seen = golden.replays

        async def replayed_again() -> bool:
            return golden.replays > seen + 2

        await until(replayed_again)
        assert not (await ingest.status("a")).state.final
        metrics = (await http.get("/metrics")).text
        assert "repcenter_canary_ok 0.0" in metrics
        golden.broken = False
        assert [status.state for status in await ended(ingest, ["a"])] == [PushState.SCOREABLE]
        await until(ready)
        metrics = (await http.get("/metrics")).text
        assert "repcenter_canary_ok 1.0" in metrics
        assert 'repcenter_quantisation_error_worst{modality="text"}' in metrics


async def test_a_worker_ends_after_so_many_replays(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings, golden: Golden
) -> None:
    async def work() -> None:
        async with working(quick(encoder_settings, 2), settings) as running:
            golden.broken = True
            async with asyncio.timeout(20):
                await asyncio.wait({running.task})

    with pytest.raises(BrokenBundle, match="golden"):
        await work()


async def test_an_encoder_refuses_and_ends(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings, golden: Golden
) -> None:
    body = {"items": [{"title": "x"}]}

    async def serve() -> None:
        async with (
            open_encoder(quick(encoder_settings, 10), settings) as running,
            httpx.AsyncClient(base_url=running.http_url, timeout=15) as http,
        ):
            assert (await http.post("/v1/encode", json=body)).status_code == 200
            golden.broken = True

            async def refused() -> bool:
                return (await http.post("/v1/encode", json=body)).status_code == 503

            await until(refused)
            assert (await http.get("/health/ready")).status_code == 503
            async with asyncio.timeout(20):
                await asyncio.wait({running.task})

    with pytest.raises(BrokenBundle, match="golden"):
        await serve()
