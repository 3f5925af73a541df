"""Padded to shape buckets and run through kept buffers, a scorer gives the same scores."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import onnxruntime
import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.errors import ProviderUnavailable
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.bucketed import uses_buckets, wants_cuda_graphs
from serving.loaded import open_generation
from serving.run_time import RunTime
from serving.settings import ScorerSettings
from serving.warm_up import drawn_inputs, warm_buckets
from tests.serving.conftest import HISTORY, World, fill, until
from tests.serving.full_ranker import make_bundle, make_ranker
from tests.serving.test_full_ranker import REQUESTS

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def full_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("full") / "ranker", make_ranker())


async def test_the_scorer_gives_the_same_scores(
    redis: Redis, full_bundle: Bundle, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    await fill(redis, full_bundle)
    changed = scorer_settings.model_copy(update={"shape_buckets": "on", "workers": 3})
    requests = {name: request for name, request in REQUESTS.items() if request.timestamp_ms is not None}
    async with open_scorer(scorer_settings, settings) as plain, open_scorer(changed, settings) as padded:
        for scorer in (plain, padded):
            await until(scorer.readiness.is_ready)
        loaded = padded.live.pin("default")
        assert loaded.buckets is not None
        warm = loaded.model.bound.shapes
        assert warm == len(list(loaded.buckets.buckets.of_one()))
        wanted = [(await plain.scorer.score(r, deadline_s=30)).scores for r in requests.values()]
        got = await asyncio.gather(
            *(padded.scorer.score(r, deadline_s=30) for r in requests.values() for _ in range(5))
        )
        for n, scores in enumerate(got):
            assert np.allclose(scores.scores, wanted[n // 5], rtol=0, atol=1e-6, equal_nan=True)
        assert loaded.model.bound.shapes == warm  # no request pays for new buffers
        told = [scorer.scorer._metrics.expose().decode() for scorer in (plain, padded)]
        line = 'repcenter_graph_runs_info{{cuda_graphs="off",device="cpu",shape_buckets="{}"}} 1.0'
        assert line.format("off") in told[0]
        assert line.format("on") in told[1]


async def test_warming_ends_when_its_time_is_over(
    redis: Redis, full_bundle: Bundle, scorer_settings: ScorerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    world = await fill(redis, full_bundle)
    changed = scorer_settings.model_copy(update={"shape_buckets": "on"})
    loaded = open_generation(world.generation, changed)
    assert loaded.buckets is not None
    many = len(list(loaded.buckets.buckets.of_one()))
    assert warm_buckets(world.generation, loaded.schema, loaded.buckets, RunTime()) == 0
    assert warm_buckets(world.generation, loaded.schema, loaded.buckets, RunTime(), limit_s=-1) == many
    assert f"{many} of {many} shape buckets were not warmed" in caplog.text


async def test_a_replay_is_compared_with_a_run(
    redis: Redis, full_bundle: Bundle, scorer_settings: ScorerSettings
) -> None:
    world = await fill(redis, full_bundle)
    changed = scorer_settings.model_copy(update={"shape_buckets": "on", "max_candidates": 20})
    loaded = open_generation(world.generation, changed)
    assert loaded.buckets is not None
    loaded.model.captures = True  # the CPU passes the numbers of graphs over
    run = loaded.model.bound._run
    loaded.model.bound._run = lambda binding, number: None  # replays nothing: what was there stays
    with pytest.raises(ProviderUnavailable, match=r"CUDA graph of N = 20, T = 16: a replay differs"):
        warm_buckets(world.generation, loaded.schema, loaded.buckets, RunTime())

    def refuses(binding: object, number: int) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    loaded.model.bound._run = refuses
    with pytest.raises(ProviderUnavailable, match="not permitted when stream is capturing"):
        warm_buckets(world.generation, loaded.schema, loaded.buckets, RunTime())
    loaded.model.bound._run = run
    assert warm_buckets(world.generation, loaded.schema, loaded.buckets, RunTime()) == 0


async def test_refused_graphs_are_said_and_left_out(
    world: World,
    scorer_settings: ScorerSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("serving.loaded.wants_cuda_graphs", lambda settings: True)  # which the CPU refuses
    loaded = open_generation(world.generation, scorer_settings)
    assert not loaded.model.captures
    assert (
        "runs without CUDA graphs: ranker.onnx: CUDA graphs were asked for on the device cpu" in caplog.text
    )
    by_all_means = scorer_settings.model_copy(update={"cuda_graphs": "on"})
    with pytest.raises(ProviderUnavailable, match="on the device cpu"):
        open_generation(world.generation, by_all_means)


async def test_drawn_inputs_are_full_requests(world: World, scorer_settings: ScorerSettings) -> None:
    loaded = open_generation(world.generation, scorer_settings)
    inputs = drawn_inputs(world.generation, loaded.schema, 5, HISTORY)
    assert inputs["candidates"].shape == (1, 5)
    assert inputs["behaviour_mask"].all()
    scores = loaded.model.run(inputs, ["score"])["score"]
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0


@pytest.mark.parametrize(
    ("changes", "buckets", "graphs"),
    [
        ({}, False, False),
        ({"shape_buckets": "on"}, True, False),
        ({"device": "cuda"}, True, True),
        ({"device": "cuda", "shape_buckets": "off"}, False, False),
        ({"device": "cuda", "cuda_graphs": "off"}, True, False),
        ({"device": "cuda", "cuda_graphs": "on"}, True, True),
    ],
)
def test_what_is_used_by_default(changes: dict[str, Any], buckets: bool, graphs: bool) -> None:
    made = ScorerSettings(**changes)
    assert (uses_buckets(made), wants_cuda_graphs(made)) == (buckets, graphs)


@pytest.mark.parametrize("wrong", [{"device": "cpu"}, {"device": "cuda", "shape_buckets": "off"}])
def test_captures_need_a_gpu_and_fixed_shapes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="cuda_graphs on needs"):
        ScorerSettings(cuda_graphs="on", **wrong)


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime was built with CUDA")
@pytest.mark.parametrize("cuda_graphs", ["auto", "on", "off"])
async def test_a_gpu_that_is_not_there_is_never_replaced(
    cuda_graphs: str, world: World, scorer_settings: ScorerSettings
) -> None:
    changed = scorer_settings.model_copy(update={"device": "cuda", "cuda_graphs": cuda_graphs})
    with pytest.raises(ProviderUnavailable, match="CUDAExecutionProvider is not in onnxruntime"):
        open_generation(world.generation, changed)
