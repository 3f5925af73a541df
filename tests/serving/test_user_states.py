"""Users' states: the same scores with and without, never of other bytes or of another generation."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from pydantic import ValidationError
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.features import Inputs
from contracts.request import Behaviour, ScoreRequest
from contracts.user_side import UserSide
from contracts.window import Window
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.settings import ScorerSettings
from serving.user_states import CachedUserSide, UserStates, history_of
from tests.serving.conftest import SPACE, World, fill, until
from tests.serving.full_ranker import make_bundle, make_ranker
from tests.serving.test_full_ranker import REQUESTS

MB = 1 << 20
ASKED = ScoreRequest(
    [f"item-{i}" for i in range(12)],
    [Behaviour(f"item-{i}", 1_700_000_000_000) for i in (3, 8, 8, 20)],
    timestamp_ms=1_700_000_050_000,
    request_id="r",
)


def history(seed: int = 0, t: int = 4, width: int = 100) -> Inputs:
    rng = np.random.default_rng(seed)
    return {
        "codes": rng.integers(-127, 128, (t, width)).astype(np.int8),
        "inv_norm": rng.random((t, 1)).astype(np.float32),
        "attributes": np.zeros((t, 0), np.int32),
        "behaviours": np.arange(t, dtype=np.int32)[None],
        "behaviour_mask": np.ones((1, t), bool),
    }


def found(states: UserStates, generation: str, arrays: Inputs) -> Inputs | None:
    return states.get(history_of(generation, arrays))


def state(value: float, size: int = 100) -> Inputs:
    return {"x": np.full(size, value, np.float32)}


def test_what_was_put_is_found_by_equal_bytes() -> None:
    states = UserStates(MB)
    assert found(states, "g", history()) is None
    kept = state(1)
    states.put(history_of("g", history()), kept)
    assert found(states, "g", history()) is kept
    assert states.counts()[:4] == (1, 1, 0, 1)


@pytest.mark.parametrize("name", ["codes", "inv_norm", "behaviour_mask"])
def test_one_other_bit_is_another_history(name: str) -> None:
    states = UserStates(MB)
    states.put(history_of("g", history()), state(1))
    changed = history()
    changed[name].reshape(-1).view(np.uint8)[3] ^= 1
    assert found(states, "g", changed) is None


def test_codes_of_equal_norm_are_told_apart_and_take_turns() -> None:
    states = UserStates(MB)
    flipped = history() | {"codes": -history()["codes"]}
    states.put(history_of("g", history()), state(1))
    assert found(states, "g", flipped) is None
    states.put(history_of("g", flipped), state(2))
    assert found(states, "g", history()) is None
    got = found(states, "g", flipped)
    assert got is not None
    assert got["x"][0] == 2
    assert states.counts().resident == 1


def test_nan_is_itself_and_zeros_have_signs() -> None:
    states = UserStates(MB)
    odd = history() | {"inv_norm": np.array([[np.nan], [0.0], [1e38], [-np.inf]], np.float32)}
    states.put(history_of("g", odd), state(1))
    assert found(states, "g", {**odd, "inv_norm": odd["inv_norm"].copy()}) is not None
    signed = odd["inv_norm"].copy()
    signed[1] = -0.0
    assert found(states, "g", {**odd, "inv_norm": signed}) is None


def test_another_length_is_another_history() -> None:
    states = UserStates(MB)
    states.put(history_of("g", history(t=4)), state(1))
    assert found(states, "g", history(t=5)) is None


def test_generations_do_not_mix_and_retired_ones_go() -> None:
    states = UserStates(MB)
    states.put(history_of("a", history()), state(1))
    states.put(history_of("b", history()), state(2))
    first, second = found(states, "a", history()), found(states, "b", history())
    assert first is not None
    assert second is not None
    assert (first["x"][0], second["x"][0]) == (1, 2)
    states.keep({"b"})
    assert found(states, "a", history()) is None
    assert found(states, "b", history()) is second


def test_the_one_used_longest_ago_gives_way() -> None:
    states = UserStates(3 * 5_500)
    for seed in range(3):
        states.put(history_of("g", history(seed)), state(seed))
    assert found(states, "g", history(0)) is not None
    states.put(history_of("g", history(3)), state(3))
    assert [found(states, "g", history(seed)) is not None for seed in range(4)] == [True, False, True, True]
    counts = states.counts()
    assert counts.evictions == 1
    assert counts.resident_bytes <= 3 * 5_500
    states.put(history_of("g", history(9)), state(9, size=10_000))  # larger than all there is
    assert states.counts().resident == 3
    states.keep(())
    assert states.counts()[3:] == (0, 0)


def test_many_threads_keep_the_books_straight() -> None:
    states = UserStates(8 * 5_000)
    wrong: list[int] = []

    def work(worker: int) -> None:
        rng = np.random.default_rng(worker)
        for seed in rng.integers(0, 20, 200).tolist():
            got = found(states, "g", history(seed))
            if got is not None and got["x"][0] != seed:
                wrong.append(seed)
            states.put(history_of("g", history(seed)), state(seed))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = states.counts()
    assert not wrong
    assert counts.hits + counts.misses == 800
    assert 0 < counts.resident_bytes <= 8 * 5_000
    states.keep(())
    assert states.counts().resident_bytes == 0


def test_states_are_for_the_cpu() -> None:
    with pytest.raises(ValidationError, match="user_state_bytes 5 needs the device cpu"):
        ScorerSettings(user_state_bytes=5, device="cuda")


@pytest.fixture(scope="module")
def full_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("full") / "ranker", make_ranker())


@pytest_asyncio.fixture
async def full_world(redis: Redis, full_bundle: Bundle) -> World:
    return await fill(redis, full_bundle)


async def test_the_scorer_gives_the_same_scores(
    full_world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    cached = scorer_settings.model_copy(update={"user_state_bytes": MB})
    requests = {name: request for name, request in REQUESTS.items() if request.timestamp_ms is not None}
    async with open_scorer(scorer_settings, settings) as plain, open_scorer(cached, settings) as states:
        for scorer in (plain, states):
            await until(scorer.readiness.is_ready)
        assert plain.live.pin("default").user_side is None
        side = states.live.pin("default").user_side
        assert side is not None
        for name, request in requests.items():
            wanted = (await plain.scorer.score(request, deadline_s=30)).scores
            for _ in range(2):
                got = (await states.scorer.score(request, deadline_s=30)).scores
                assert np.allclose(got, wanted, rtol=0, atol=1e-6, equal_nan=True), name
        counts = side.states.counts()
        assert counts.hits >= len(requests)
        assert counts.hits + counts.misses == 2 * len(requests)
        await states.live.refresh()
        assert side.states.counts().resident == counts.resident
        told = states.scorer._metrics.expose().decode()
        assert f"repcenter_user_state_hits_total {float(counts.hits)}" in told
        assert "repcenter_user_state" not in plain.scorer._metrics.expose().decode()


async def test_a_changed_record_is_another_state(
    full_world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    changed = scorer_settings.model_copy(update={"user_state_bytes": MB, "cache_bytes": 0})
    async with open_scorer(changed, settings) as running:
        await until(running.readiness.is_ready)
        loaded = running.live.pin("default")
        assert isinstance(loaded.user_side, CachedUserSide)
        before = (await running.scorer.score(ASKED, deadline_s=30)).scores
        record = np.frombuffer((await full_world.records())["item-8"], SPACE.dtype).copy()
        record["codes"] = -record["codes"]
        record["sequence"] += 1_000
        await full_world.store.commit_window(Window(SPACE, ["item-8"], record, 1_700_000_000_000))
        after = (await running.scorer.score(ASKED, deadline_s=30)).scores
        assert loaded.user_side.states.counts()[:2] == (0, 2)
        untouched = [i for i in range(12) if i != 8]
        assert np.abs(before - after)[untouched].max() > 1e-6


async def test_a_bundle_in_one_piece_serves_without_states(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    states = scorer_settings.model_copy(update={"user_state_bytes": MB})
    async with open_scorer(states, settings) as running:
        await until(running.readiness.is_ready)
        assert running.live.pin("default").user_side is None
        assert np.isfinite((await running.scorer.score(ASKED, deadline_s=30)).scores).all()


def test_a_miss_and_a_hit_run_the_same(full_bundle: Bundle) -> None:
    from contracts.onnx_model import OnnxModel
    from contracts.ranker_spec import USER, WITH_USER

    side = UserSide(*(OnnxModel(Path(full_bundle.path) / name) for name in (USER, WITH_USER)))
    cached = CachedUserSide(side, UserStates(MB), "g")
    inputs, outputs = full_bundle.golden()["ranker"]
    first, second = (cached.run(inputs, ["score"])["score"] for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert np.allclose(first, outputs["score"], atol=1e-6)
    assert cached.states.counts()[:2] == (1, 1)
