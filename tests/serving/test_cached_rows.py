"""A scorer with its row cache: equal scores, pushes seen, warm before a swap, degraded as the policy says."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.codec import encode_records
from contracts.errors import Unavailable
from contracts.request import Behaviour, ScoreRequest
from contracts.window import Window
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.hot_ids import HotIds
from param_server.settings import StoreSettings
from param_server.windows import Windows
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD, SPACE, WITH_CONTENT, World, fill, until

REQUEST = ScoreRequest([*WITH_CONTENT[:10], COLD[0], "unknown"], [Behaviour(WITH_CONTENT[11])])


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, so that a restarted server has the same socket."""
    with tempfile.TemporaryDirectory(prefix="rc-") as path:
        yield Path(path)


async def value(running: RunningScorer, name: str) -> float:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def test_cached_scores_equal_those_of_the_tables_and_a_push_changes_them(
    running: RunningScorer, world: World, scorer_settings: ScorerSettings, settings: StoreSettings
) -> None:
    uncached = scorer_settings.model_copy(update={"cache_bytes": 0})
    async with open_scorer(uncached, settings) as plain:
        await until(plain.readiness.is_ready)
        expected = (await plain.scorer.score(REQUEST)).scores
        for _ in range(3):
            got = await running.scorer.score(REQUEST)
            np.testing.assert_array_equal(got.scores, expected)
            assert not got.completeness.stale
        assert await value(running, "repcenter_cache_hits_total") >= 2 * 2 * 13
        assert await value(running, "repcenter_cache_resident_rows") == 2 * 13
        vectors = [np.random.default_rng(9).normal(size=(1, 16)).astype(np.float32) for _ in range(3)]
        records = encode_records(vectors, np.array([10_000], np.uint64), np.zeros((1, 3), np.uint32))
        windows = Windows(world.store, world.redis, 100)
        await windows.announce(await windows.commit(Window(SPACE, [WITH_CONTENT[0]], records, 1)))
        expected = (await plain.scorer.score(REQUEST)).scores

        async def seen() -> bool:
            return np.array_equal((await running.scorer.score(REQUEST)).scores, expected, equal_nan=True)

        await until(seen)
        assert await value(running, "repcenter_cache_misses_total") == 2 * 13
        assert await value(plain, "repcenter_cache_hits_total") == 0


async def test_a_new_generation_is_warm_before_it_serves(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle], settings: StoreSettings
) -> None:
    await running.scorer.score(REQUEST)
    second = await world.publish(bundles[1])
    await world.generations.activate("default", second)

    async def swapped() -> bool:
        return running.live.pin("default").id == second

    await until(swapped)
    misses = await value(running, "repcenter_cache_misses_total")
    await running.scorer.score(REQUEST)
    assert await value(running, "repcenter_cache_misses_total") == misses


async def test_a_scorer_starts_with_the_rows_that_the_last_one_was_asked_for(
    world: World, scorer_settings: ScorerSettings, settings: StoreSettings
) -> None:
    for first in (True, False):
        async with open_scorer(scorer_settings, settings) as running:
            await until(running.readiness.is_ready)
            await running.scorer.score(REQUEST)
            assert await value(running, "repcenter_cache_misses_total") == (26 if first else 0)
    ids, _ = HotIds(settings.var_dir / "cache" / "hot_ids.json", 100).load()
    assert set(REQUEST.candidates) < set(ids)


@pytest.mark.parametrize("policy", ["refuse", "flagged"])
async def test_a_killed_store(
    directory: Path, bundles: tuple[Bundle, Bundle], scorer_settings: ScorerSettings, policy: str
) -> None:
    """Until the bound has passed, cached scores are given as ever; then an error, or scores that say so."""
    server = EmbeddedServer.start(directory)
    settings = StoreSettings(redis_url=server.url, socket_timeout_s=0.5, var_dir=directory / "var")
    redis = connect_one(server.url, settings)
    await fill(redis, bundles[0])
    changed = scorer_settings.model_copy(update={"cache_bound_s": 1.0, "cache_stale": policy})
    try:
        async with (
            open_scorer(changed, settings) as running,
            HttpClient(running.http_url) as http,
            GrpcClient(running.grpc_target) as rpc,
        ):
            await until(running.readiness.is_ready)
            before = await http.score(REQUEST)
            killed_at = time.monotonic()
            server.kill()
            in_time = await http.score(REQUEST)
            if time.monotonic() - killed_at < 0.4:  # half the bound: the follower's beat is a quarter of it
                np.testing.assert_array_equal(in_time.scores, before.scores)
                assert not in_time.completeness.stale

            async def ended() -> bool:
                try:
                    return (await http.score(REQUEST)).completeness.stale
                except Unavailable:
                    return policy == "refuse"

            await until(ended)
            for client in (http, rpc):
                if policy == "refuse":
                    with pytest.raises(Unavailable):
                        await client.score(REQUEST)
                else:
                    answer = await client.score(REQUEST)
                    assert answer.completeness.stale
                    np.testing.assert_array_equal(answer.scores, before.scores)
            server = EmbeddedServer.start(directory)

            async def back() -> bool:
                try:
                    return not (await http.score(REQUEST)).completeness.stale
                except Unavailable:
                    return False

            await until(back, 20)
    finally:
        await redis.aclose()
        server.stop()
