"""The queue before the graphs: order by priority, runs that are shared, faults that are not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from contracts.bundle import Bundle
from contracts.codec import ID_INT8, Rows, encode_id_rows, encode_records
from contracts.errors import DeadlineExceeded
from contracts.features import assemble
from contracts.manifest import Generation, IdTable
from contracts.onnx_model import OnnxModel
from contracts.request import Behaviour, Priority, ScoreRequest
from param_server.store import Fetched
from serving.batcher import Batcher, Computed, Job
from serving.loaded import LoadedGeneration, open_generation
from serving.run_time import RunTime
from serving.settings import ScorerSettings
from tests.serving.conftest import ID_DIM, SPACE, WITH_ID_ROW

LATER = 10.0


@pytest.fixture(scope="module")
def loaded(bundles: tuple[Bundle, Bundle]) -> LoadedGeneration:
    bundle = bundles[0]
    table = IdTable("rows-1", ID_INT8, ID_DIM, len(WITH_ID_ROW))
    generation = Generation(1, "encoder", SPACE.encoder_digest, SPACE, str(bundle.path), bundle.digest, table)
    return open_generation(generation, ScorerSettings())


@pytest.fixture
def batcher() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(*arguments: Any) -> Batcher:
        made.append(Batcher(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def job(
    loaded: LoadedGeneration,
    candidates: int = 3,
    behaviours: int = 2,
    seed: int = 0,
    priority: Priority = "normal",
    within_s: float = LATER,
) -> Job:
    request = ScoreRequest(
        [f"c{i}" for i in range(candidates)], [Behaviour(f"b{j}", j) for j in range(behaviours)]
    )
    assembled = assemble([request], loaded.schema)
    return Job(
        loaded, assembled, rows(len(assembled.item_ids), seed), time.perf_counter() + within_s, priority
    )


def rows(count: int, seed: int) -> Fetched:
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(count, 16)).astype(np.float32) for _ in range(3)]
    attributes = rng.integers(0, 2**16, (count, 3), dtype=np.uint32)
    records = encode_records(vectors, np.arange(count, dtype=np.uint64), attributes)
    id_rows: Rows = encode_id_rows(
        rng.normal(size=(count, ID_DIM)).astype(np.float32), rng.random(count).astype(np.float32)
    )
    return Fetched(records, rng.random(count) < 0.9, id_rows, rng.random(count) < 0.7)


def watched(loaded: LoadedGeneration, gate: threading.Event) -> tuple[LoadedGeneration, list[int]]:
    """The generation with a graph that waits for the gate and notes how many requests each run has."""
    runs: list[int] = []

    def run(inputs: dict[str, npt.NDArray[Any]], outputs: list[str]) -> dict[str, npt.NDArray[Any]]:
        runs.append(len(inputs["candidates"]))
        assert gate.wait(5)
        return loaded.model.run(inputs, outputs)

    return replace(loaded, model=cast(OnnxModel, SimpleNamespace(run=run))), runs


def hold(batcher: Batcher, loaded: LoadedGeneration) -> threading.Event:
    """Occupy a worker until the event is set."""
    gate = threading.Event()
    busy, runs = watched(loaded, gate)
    batcher.submit(job(busy))
    while not runs:
        time.sleep(0.001)
    return gate


def alone(loaded: LoadedGeneration, one: Job) -> npt.NDArray[np.float32]:
    batcher = Batcher(1)
    try:
        return batcher.submit(Job(loaded, one.assembled, one.fetched, one.deadline_at)).result(5).scores
    finally:
        batcher.close()


def test_the_most_urgent_goes_first_and_equals_in_order(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue = batcher(1)
    gate, ended = hold(queue, loaded), list[str]()
    asked: list[tuple[str, Priority]] = [
        ("low", "low"),
        ("normal 1", "normal"),
        ("high 1", "high"),
        ("normal 2", "normal"),
        ("high 2", "high"),
    ]
    answers = []
    for name, priority in asked:
        answers.append(queue.submit(job(loaded, priority=priority)))
        answers[-1].add_done_callback(lambda _, name=name: ended.append(name))  # type: ignore[misc]
    gate.set()
    for answer in answers:
        answer.result(5)
    assert ended == ["high 1", "high 2", "normal 1", "normal 2", "low"]


def test_requests_share_a_run_and_get_what_they_would_get_alone(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue, gate = batcher(1, 64), threading.Event()
    both, runs = watched(loaded, gate)
    first = hold(queue, loaded)
    jobs = [job(both, n, t, seed) for seed, (n, t) in enumerate([(10, 15), (9, 16), (10, 14), (10, 16)])]
    answers = [queue.submit(one) for one in jobs]
    gate.set()
    first.set()
    computed = [answer.result(5) for answer in answers]
    assert runs == [4]
    for one, got in zip(jobs, computed, strict=True):
        assert got.scores.shape == (one.shape[0],)
        np.testing.assert_allclose(got.scores, alone(loaded, one), atol=1e-6)
    assert [c.requests for c in computed] == [4] * 4


def test_what_does_not_fit_has_a_run_of_its_own(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue, gate = batcher(1, 30), threading.Event()
    both, runs = watched(loaded, gate)
    other, others = watched(loaded, gate)
    first = hold(queue, loaded)
    answers = [
        queue.submit(one)
        for one in (
            job(both, 10, 16),
            job(other, 10, 16),  # of another generation
            job(both, 10, 1),  # most of it would be padding
            job(both, 10, 16),
            job(both, 10, 16),
            job(both, 10, 16),  # more than 30 candidates
        )
    ]
    gate.set()
    first.set()
    for answer in answers:
        answer.result(5)
    assert runs == [3, 1, 1]
    assert others == [1]


def test_without_rows_nothing_is_shared(batcher: Callable[..., Batcher], loaded: LoadedGeneration) -> None:
    queue, gate = batcher(1), threading.Event()
    one, runs = watched(loaded, gate)
    first = hold(queue, loaded)
    answers = [queue.submit(job(one)) for _ in range(3)]
    gate.set()
    first.set()
    assert [answer.result(5).requests for answer in answers] == [1, 1, 1]
    assert runs == [1, 1, 1]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_free_worker_waits_for_company(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration, workers: int
) -> None:
    queue = batcher(workers, 64, 5.0)
    answers = [queue.submit(job(loaded, 16, 8, seed)) for seed in range(4)]  # 64 candidates: full
    assert [answer.result(2).requests for answer in answers] == [4] * 4


def test_a_near_deadline_ends_the_wait(batcher: Callable[..., Batcher], loaded: LoadedGeneration) -> None:
    queue = batcher(1, 64, 60.0)
    assert queue.submit(job(loaded, within_s=0.3)).result(5).requests == 1


def test_an_urgent_job_that_does_not_fit_ends_the_wait(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue = batcher(2, 64, 60.0)
    other = replace(loaded)
    waiting = queue.submit(job(loaded))
    time.sleep(0.02)
    later = queue.submit(job(other, within_s=0.2))
    assert waiting.result(5).requests == later.result(5).requests == 1


def test_a_shared_run_that_fails_is_run_request_by_request(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue = batcher(1, 64)
    first = hold(queue, loaded)

    def run(inputs: dict[str, npt.NDArray[Any]], outputs: list[str]) -> dict[str, npt.NDArray[Any]]:
        if (inputs["candidates"][:, 0] == inputs["candidates"][:, 1]).any():  # c0 twice: the bad one
            raise RuntimeError("poison")
        return loaded.model.run(inputs, outputs)

    fragile = replace(loaded, model=cast(OnnxModel, SimpleNamespace(run=run)))
    good, bad = job(fragile, 2, 2), job(fragile, 2, 2)
    assembled = assemble([ScoreRequest(["c0", "c0"], [Behaviour("b0"), Behaviour("b1")])], loaded.schema)
    bad = replace(bad, assembled=assembled, fetched=rows(3, 1), answer=Future())
    answers = [queue.submit(good), queue.submit(bad)]
    first.set()
    np.testing.assert_array_equal(answers[0].result(5).scores, alone(loaded, good))
    with pytest.raises(RuntimeError, match="poison"):
        answers[1].result(5)


def test_cancelled_and_late_jobs_are_not_computed(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue, gate = batcher(1, 64), threading.Event()
    gate.set()
    counted, runs = watched(loaded, gate)
    first = hold(queue, loaded)
    cancelled, late, kept = (
        queue.submit(job(counted)),
        queue.submit(job(counted, within_s=0.01)),
        queue.submit(job(counted)),
    )
    assert cancelled.cancel()
    time.sleep(0.02)
    first.set()
    assert kept.result(5).requests == 1
    with pytest.raises(DeadlineExceeded, match="before a worker was free"):
        late.result(5)
    assert runs == [1]


def test_what_is_always_overtaken_and_given_up_is_let_go(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    queue = batcher(1)
    gate = hold(queue, loaded)
    kept = queue.submit(job(loaded, priority="low"))
    for _ in range(1_000):
        assert queue.submit(job(loaded, priority="low")).cancel()
    assert len(queue._waiting) < 200
    gate.set()
    assert kept.result(5).requests == 1


def test_a_run_that_nobody_waits_for_any_more_is_learned_from(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    known = replace(loaded, run_time=RunTime())
    queue = batcher(1)
    gate = hold(queue, known)
    assert known.run_time.predict(3, 2) == 0
    gate.set()
    queue.submit(job(loaded)).result(5)
    assert known.run_time.predict(3, 2) > 0


def test_closing_lets_the_running_end_and_cancels_the_waiting(loaded: LoadedGeneration) -> None:
    queue = Batcher(1)
    gate = threading.Event()
    slow, runs = watched(loaded, gate)
    running = queue.submit(job(slow))
    while not runs:
        time.sleep(0.001)
    waiting = queue.submit(job(loaded))
    threading.Timer(0.05, gate.set).start()
    queue.close()
    assert isinstance(running.result(0), Computed)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        queue.submit(job(loaded))


def test_many_threads_and_windows_lose_nothing(
    batcher: Callable[..., Batcher], loaded: LoadedGeneration
) -> None:
    ran: list[int] = []
    queue = batcher(3, 40, 0.002, ran.append)
    rng = np.random.default_rng(0)
    sizes = [
        (int(n), int(t)) for n, t in zip(rng.integers(1, 12, 300), rng.integers(1, 17, 300), strict=True)
    ]
    jobs = [job(loaded, n, t, seed) for seed, (n, t) in enumerate(sizes)]
    answers: list[Future[Computed]] = []
    for start in range(0, 300, 50):
        answers += [queue.submit(one) for one in jobs[start : start + 50]]
        time.sleep(0.003)
    computed = [answer.result(10) for answer in answers]
    assert sum(ran) == 300
    assert max(c.requests for c in computed) > 1
    for one, got in zip(jobs[::20], computed[::20], strict=True):
        np.testing.assert_allclose(got.scores, alone(loaded, one), atol=1e-6)
