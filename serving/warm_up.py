"""Runs before a generation serves, so that no request pays for first allocations, plans or captures.

On the CPU four shapes: what a first run of another shape costs is little (docs/benchmarks/serve.md). With
shape buckets every bucket of one request, the largest first, while `WARM_S` lasts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from contracts.codec import Rows, id_row_dtype
from contracts.errors import ProviderUnavailable
from contracts.features import Inputs, assemble, item_inputs
from contracts.items import AttributeValue
from contracts.manifest import Generation
from contracts.onnx_model import OnnxModel, Runs
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema
from serving.bucketed import BucketedRuns
from serving.run_time import RunTime

log = logging.getLogger(__name__)
WARM_S = 60.0
_CANDIDATES = (1, 20, 100, 200)
_VALUES: dict[str, AttributeValue] = {"categorical": "a", "numeric": 1.0}
_CAPTURED = 1e-4  # of a score: a replayed graph beside the same run without capture


def warm(generation: Generation, schema: FeatureSchema, graphs: Sequence[Runs], run_time: RunTime) -> None:
    """Each of `graphs` at small to large shapes; `run_time` learns from it."""
    length = schema.history_length
    for n, t in zip(_CANDIDATES, (0, min(16, length), min(64, length), length), strict=True):
        given = drawn_inputs(generation, schema, n, t)
        for graph in graphs:
            _twice(graph, given, n, t, run_time)


def warm_buckets(
    generation: Generation,
    schema: FeatureSchema,
    runs: BucketedRuns,
    run_time: RunTime,
    limit_s: float = WARM_S,
) -> int:
    """Every bucket of a single request; the buckets that were left out when `limit_s` was over.

    Where CUDA graphs are captured, each is replayed on other inputs and compared with a run that is not.
    Raises ProviderUnavailable where a graph cannot be captured or replays other scores.
    """
    until = time.perf_counter() + limit_s
    buckets = list(runs.buckets.of_one())
    for done, bucket in enumerate(buckets):
        if time.perf_counter() > until:
            log.warning(
                "%d of %d shape buckets were not warmed in %g s", len(buckets) - done, len(buckets), limit_s
            )
            return len(buckets) - done
        n, t = bucket.candidates, bucket.behaviours
        given = drawn_inputs(generation, schema, n, t)
        if not runs.model.captures:
            _twice(runs, given, n, t, run_time)
            continue
        try:
            _twice(runs, given, n, t, run_time)
            _check_replay(runs, runs.model, drawn_inputs(generation, schema, n, t, seed=1))
        except Exception as error:  # ORT's exceptions share no base class
            raise ProviderUnavailable(f"CUDA graph of N = {n}, T = {t}: {error}") from error
    log.info("%d shape buckets are warm, %d bytes of buffers", len(buckets), runs.model.bound.bytes)
    return 0


def drawn_inputs(
    generation: Generation, schema: FeatureSchema, candidates: int, behaviours: int, seed: int = 0
) -> Inputs:
    """One request with so many distinct items, every column and query given, its rows drawn."""
    request = ScoreRequest(
        [f"c{i}" for i in range(candidates)],
        [Behaviour(f"b{j}", j) for j in range(behaviours)],
        user={f.field.name: _VALUES[f.field.kind] for f in schema.user},
        context={f.field.name: _VALUES[f.field.kind] for f in schema.context},
        timestamp_ms=schema.history_length,
        query={m.name: [1.0] * m.dim for m in schema.query},
    )
    assembled = assemble([request], schema)
    rng, rows = np.random.default_rng(seed), len(assembled.item_ids)
    records: Rows = np.zeros(rows, dtype=generation.space.dtype)
    records["codes"] = rng.integers(-127, 128, records["codes"].shape)
    records["inv_norm"] = 1 / (73 * np.sqrt([m.dim for m in generation.space.modalities]))
    id_rows: Rows = np.zeros(rows, dtype=id_row_dtype(generation.id_table.codec, generation.id_table.dim))
    id_rows["codes"] = rng.integers(-127, 128, id_rows["codes"].shape)
    id_rows["scale"] = 1e-3
    known = np.ones(rows, dtype=np.bool_)
    return {**item_inputs(records, known, id_rows, known, schema), **assembled.inputs()}


def _twice(graph: Runs, given: Inputs, candidates: int, behaviours: int, run_time: RunTime) -> None:
    graph.run(given, ["score"])
    began = time.perf_counter()
    graph.run(given, ["score"])  # again: now nothing is allocated any more
    run_time.observe(candidates, behaviours, time.perf_counter() - began)


def _check_replay(runs: BucketedRuns, model: OnnxModel, given: Inputs) -> None:
    wanted, got = (graph.run(given, ["score"])["score"] for graph in (model, runs))
    difference = float(np.abs(wanted - got).max(initial=0.0))
    if not difference <= _CAPTURED:
        raise ProviderUnavailable(f"a replay differs from the run by {difference:.3g}")
