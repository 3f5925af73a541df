"""Many swaps and rollbacks while users ask: none fails, none mixes, memory returns, drift is refused."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.errors import GateFailed, RepcenterError
from contracts.request import Behaviour, ScoreRequest
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.drift import Drift, DriftLimits, measure_drift, spearman
from serving.loaded import load_generation
from serving.recorded import MOST_CANDIDATES, RecordedRequests
from serving.settings import ScorerSettings
from tests.ranker_bundle import recompute
from tests.serving.conftest import SPACE, WITH_CONTENT, World, until

REQUEST = ScoreRequest(WITH_CONTENT[:12], [Behaviour("item-3"), Behaviour("item-4")])


async def serves(running: RunningScorer, generation_id: str) -> bool:
    serving = running.live.serving().get("default")
    return serving is not None and serving.loaded.id == generation_id


async def test_twenty_swaps_and_five_rollbacks_under_load(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    """Every answer is that of the generation that it names, to 1e-6; nothing but answers comes back."""
    records, id_rows = await world.records(), await world.id_rows()
    first, second = world.generation.id, await world.publish(bundles[1])
    expected = {
        generation: recompute(bundle, SPACE, REQUEST, records, id_rows)
        for generation, bundle in ((first, bundles[0]), (second, bundles[1]))
    }
    outcomes: Counter[str] = Counter()
    stop = asyncio.Event()

    async def ask(client: HttpClient | GrpcClient) -> None:
        while not stop.is_set():
            try:
                answer = await client.score(REQUEST)
            except RepcenterError as error:
                outcomes[type(error).__name__] += 1
                continue
            right = np.abs(answer.scores - expected[answer.generation]).max() < 1e-6
            outcomes[answer.generation if right else "mixed"] += 1

    async def move(target: str, *, back: bool = False) -> None:
        if back:
            await world.generations.roll_back("default")
        else:
            await world.generations.activate("default", target)
        await until(partial(serves, running, target))
        seen = outcomes[target]

        async def answered() -> bool:
            return outcomes[target] > seen

        await until(answered)

    async with (
        HttpClient(running.http_url) as http,
        GrpcClient(running.grpc_target) as rpc,
        asyncio.TaskGroup() as users,
    ):
        for client in (http, rpc):
            users.create_task(ask(client))
        for n in range(20):
            await move(second if n % 2 == 0 else first)
        for n in range(5):
            await move(second if n % 2 == 0 else first, back=True)
        stop.set()
    assert set(outcomes) == {first, second}


async def test_a_generation_that_drifts_is_refused_and_the_way_back_never_is(
    world: World,
    bundles: tuple[Bundle, Bundle],
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second ranker's logits are one higher, in the same order."""
    first, second = world.generation.id, await world.publish(bundles[1])
    strict = scorer_settings.model_copy(update={"drift_max_logit": 0.5})
    loose = scorer_settings.model_copy(update={"drift_max_logit": 2.0, "drift_min_rank": 0.99})
    async with open_scorer(strict, settings) as refuses, open_scorer(loose, settings) as takes:
        for running in (refuses, takes):
            await until(running.readiness.is_ready)
            for _ in range(3):
                await running.scorer.score(REQUEST)
        with caplog.at_level(logging.ERROR, logger="serving.live"):
            await world.generations.activate("default", second)
            await until(partial(serves, takes, second))
            await until(partial(_logged, caplog, "gate logit drift: measured 1, the threshold is 0.5"))
        assert await serves(refuses, first)
        async with httpx.AsyncClient(base_url=takes.http_url) as http:
            metrics = (await http.get("/metrics")).text
        assert 'repcenter_generation_drift{measure="rank",scene="default"} 1.0' in metrics
    async with open_scorer(
        strict, settings
    ) as running:  # nothing is recorded yet: it starts with the new one
        await until(partial(serves, running, second))
        await running.scorer.score(REQUEST)
        await world.generations.roll_back("default")
        await until(partial(serves, running, first))  # as far away, and not asked


async def test_drift_measures_what_each_generation_finds(
    world: World, scorer_settings: ScorerSettings
) -> None:
    """A generation that has no rows for most of what is asked is refused by default."""
    loaded = await load_generation(world.generation.id, world.generations, world.store, scorer_settings)
    recorded = RecordedRequests(["default"], 4)
    recorded.add(REQUEST, 16, 0)
    same = await measure_drift(world.store, loaded, loaded, recorded.of("default"))
    assert (same.requests, same.logit, same.lost) == (1, 0.0, 0.0)
    assert same.rank == pytest.approx(1)
    nothing = await measure_drift(world.store, loaded, loaded, [])
    assert np.isnan([nothing.logit, nothing.rank, nothing.lost]).all()
    nothing.refuse(DriftLimits(0, 1, 0))  # what could not be measured passes
    Drift(1, 5.0, -1.0, 0.4).refuse(DriftLimits(None, None, 0.5))
    with pytest.raises(GateFailed, match=r"lost candidates: measured 0.6"):
        Drift(1, 0.0, 1.0, 0.6).refuse(DriftLimits(None, None, scorer_settings.drift_max_lost))


def test_rank_correlation() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a * 10) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944, abs=1e-4)  # ties share a rank
    assert spearman(a, np.ones(4)) == 0
    assert spearman(np.ones(4), np.ones(4)) == 1


def test_recorded_requests_are_bounded() -> None:
    recorded = RecordedRequests(["default"], 2)
    for n in range(3):
        long = ScoreRequest([f"{n}"] * 2_000, [Behaviour(f"b{j}") for j in range(1_000)])
        recorded.add(long, 16, n)
    kept = recorded.of("default")
    assert [r.now_ms for r in kept] == [1, 2]
    assert {(len(r.request.candidates), len(r.request.behaviours)) for r in kept} == {(MOST_CANDIDATES, 16)}
    assert kept[0].request.behaviours[-1].item_id == "b999"
    none = RecordedRequests(["default"], 0)
    none.add(REQUEST, 16, 0)
    assert none.of("default") == []


@pytest.mark.faults
async def test_memory_returns_after_a_hundred_swaps(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    first, second = world.generation.id, await world.publish(bundles[1])

    async def swap(times: int) -> int:
        for n in range(times):
            target = second if n % 2 == 0 else first
            await world.generations.activate("default", target)
            await until(partial(serves, running, target))
            for _ in range(3):
                await running.scorer.score(REQUEST)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return _resident_bytes()

    before = await swap(20)
    after = await swap(100)
    print(f"resident MB: {before / 1e6:.1f} after 20 swaps, {after / 1e6:.1f} after 120")
    assert after - before < 8e6  # one session that stays is about a megabyte


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text
