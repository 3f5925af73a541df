"""The live half of the demo: push new items, time until they score, score users, compare with offline."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console

from cli.progress import Advance, stage
from cli.stack import Stack
from contracts.errors import Conflict, DeadlineExceeded
from contracts.manifest import Generation
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import MISSING, OK, Scores
from param_server.connection import connect
from param_server.settings import StoreSettings
from param_server.store import Store
from serving.client import GrpcClient, HttpClient
from training.data.dataset import Dataset
from training.data.interactions import TEST
from training.data.samples import Samples
from training.evaluation import predict
from training.item_table import ItemTable, item_table
from training.recipes.ranker import RankerResult, RankerRun

_CONCURRENT_PUSHES = 2
_POLL_S = 0.002
_SCOREABLE_S = 60.0
_REQUESTS = 200
_CANDIDATES = 100
_FETCH_CHUNK = 1024
_AGREEMENT = 1e-4  # between a score online and offline


@dataclass(frozen=True, eq=False)
class Live:
    """What the live half needs. new: (I,) bool."""

    dataset: Dataset
    samples: Samples
    new: npt.NDArray[np.bool_]
    run: RankerRun
    served: RankerResult
    generation: Generation
    stack: Stack


@dataclass(frozen=True, eq=False)
class Shown:
    """One user's answer, for the printed table."""

    request: ScoreRequest
    scores: Scores


@dataclass(frozen=True, eq=False)
class Measured:
    push_ms: dict[str, float]
    score_ms: dict[str, float]
    pushed: int
    compared: int
    max_abs_diff: float
    shown: Shown


def measure(console: Console, live: Live, seed: int) -> Measured:
    """Steps 6 and 7. Raises DeadlineExceeded where a pushed item does not become scoreable in 60 s."""
    with stage(console, "6. Serve") as advance:
        advance.note("starting scorer, write door and worker")
        live.stack.wait_ready()
        advance.note("pushing new items")
        push_ms = asyncio.run(_push_all(live, advance))
        advance.note("scoring users")
        chosen, requests, candidates = _requests(live, seed)
        over_http, over_grpc, score_ms = asyncio.run(_score_all(live, requests, advance))
        advance.note("recomputing offline")
        offline = _offline(live, chosen, candidates)
    difference, compared = _difference(over_http, over_grpc, offline)
    return Measured(
        push_ms=_percentiles(push_ms),
        score_ms=_percentiles(score_ms),
        pushed=len(push_ms),
        compared=compared,
        max_abs_diff=difference,
        shown=Shown(requests[0], over_http[0]),
    )


async def _push_all(live: Live, advance: Advance) -> list[float]:
    """Milliseconds from the push until a score through the scorer's door says `ok`, per new item."""
    rows = np.flatnonzero(live.new).tolist()
    free = asyncio.Semaphore(_CONCURRENT_PUSHES)
    times: list[float] = []
    endpoints = live.stack.endpoints
    async with HttpClient(endpoints.door_http) as door, HttpClient(endpoints.scorer_http) as scorer:

        async def push(row: int) -> None:
            item = live.dataset.catalogue.item(row)
            request = ScoreRequest([item.item_id])
            async with free:
                began = time.perf_counter()
                await door.push(item)
                while (await scorer.score(request)).statuses[0] != OK:
                    if time.perf_counter() - began > _SCOREABLE_S:
                        status = await door.status(item.item_id)
                        raise DeadlineExceeded(
                            f"{item.item_id} is {status.state} after {_SCOREABLE_S:g} s: {status.reason}"
                        )
                    await asyncio.sleep(_POLL_S)
                times.append((time.perf_counter() - began) * 1e3)
            advance(len(times), len(rows))

        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(push(row))
    return times


def _requests(
    live: Live, seed: int
) -> tuple[npt.NDArray[np.int64], list[ScoreRequest], npt.NDArray[np.int32]]:
    """Test requests of real users with a history, those with new items first, filled up to 100 candidates."""
    rng = np.random.default_rng(seed)
    samples, catalogue = live.samples, live.dataset.catalogue
    test = np.flatnonzero((samples.splits == TEST) & (samples.ends > samples.starts))
    has_new = live.run.items.new[samples.candidates[test]] & samples.candidate_mask[test]
    order = np.lexsort((rng.random(len(test)), ~has_new.any(axis=1)))
    chosen = test[order[:_REQUESTS]]
    width = min(_CANDIDATES, len(catalogue))
    candidates = np.zeros((len(chosen), width), dtype=np.int32)
    requests = []
    for n, sample in enumerate(chosen.tolist()):
        asked = samples.candidates[sample][samples.candidate_mask[sample]][:width]
        others = np.setdiff1d(rng.permutation(len(catalogue))[: 2 * width] + 1, asked)
        rest = rng.permutation(others)[: width - len(asked)]
        rows = np.concatenate([asked, rest])
        candidates[n, : len(rows)] = rows
        liked = samples.liked[samples.starts[sample] : samples.ends[sample]]
        requests.append(
            ScoreRequest(
                [catalogue.item_ids[row - 1] for row in rows.tolist()],
                [Behaviour(catalogue.item_ids[row - 1]) for row in liked.tolist()],
                user_id=live.dataset.interactions.user_ids[int(samples.users[sample])],
                **samples.said.request(int(samples.users[sample]), int(samples.requests[sample])),
            )
        )
    return chosen, requests, candidates


async def _score_all(
    live: Live, requests: list[ScoreRequest], advance: Advance
) -> tuple[list[Scores], list[Scores], list[float]]:
    """Answers over HTTP and gRPC, and the client's milliseconds of both."""
    endpoints = live.stack.endpoints
    over_http, over_grpc, times = [], [], []
    async with HttpClient(endpoints.scorer_http) as http, GrpcClient(endpoints.scorer_grpc) as rpc:
        for n, request in enumerate(requests):
            began = time.perf_counter()
            over_http.append(await http.score(request))
            between = time.perf_counter()
            over_grpc.append(await rpc.score(request))
            times += [(between - began) * 1e3, (time.perf_counter() - between) * 1e3]
            advance(n + 1, len(requests))
    return over_http, over_grpc, times


def _offline(
    live: Live, chosen: npt.NDArray[np.int64], candidates: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """The same scores by torch from the stored records: (R, N), NaN at padding."""
    mask = candidates > 0
    samples = dataclasses.replace(
        live.samples.read_by(live.run.schema).take(chosen),
        candidates=candidates,
        labels=np.zeros(candidates.shape, dtype=np.float32),
        candidate_mask=mask,
    )
    items = asyncio.run(_stored_items(live))
    trained = live.served.trained
    logits = predict(trained.model, samples, np.arange(len(chosen)), items, trained.ids.quantised())
    return np.where(mask, live.served.calibrated.calibration.scores(logits), np.nan)


async def _stored_items(live: Live) -> ItemTable:
    """Every item's record as the table holds it now."""
    space, item_ids = live.generation.space, live.dataset.catalogue.item_ids
    records = np.zeros(len(item_ids), dtype=space.dtype)
    found = np.zeros(len(item_ids), dtype=bool)
    redis = connect(live.stack.endpoints.redis_url, StoreSettings())
    try:
        store = Store(redis)
        for at in range(0, len(item_ids), _FETCH_CHUNK):
            fetched = await store.fetch(space, None, item_ids[at : at + _FETCH_CHUNK])
            records[at : at + _FETCH_CHUNK] = fetched.records
            found[at : at + _FETCH_CHUNK] = fetched.found
    finally:
        await redis.aclose()
    return item_table(records, found, live.new, live.run.schema)


def _difference(
    over_http: list[Scores], over_grpc: list[Scores], offline: npt.NDArray[np.float64]
) -> tuple[float, int]:
    """The largest absolute difference of both doors to the offline scores, and how many were compared.

    Raises Conflict where a score differs by more than 1e-4, or a known candidate has none.
    """
    worst, compared = 0.0, 0
    for n, (a, b) in enumerate(zip(over_http, over_grpc, strict=True)):
        for answer in (a, b):
            known = answer.statuses != MISSING
            gap = np.abs(answer.scores[known] - offline[n, : len(known)][known])
            if not np.isfinite(gap).all():
                raise Conflict(f"request {n}: a known candidate has no score online or offline")
            worst = max(worst, float(gap.max(initial=0.0)))
            compared += int(known.sum())
    if not compared or not worst <= _AGREEMENT:
        raise Conflict(f"online and offline differ by {worst:.3g} over {compared} scores")
    return worst, compared


def _percentiles(times_ms: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}
