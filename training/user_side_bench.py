"""`repcenter bench user-states`: the serving graph whole, and in two with a user's state at hand or not."""

from __future__ import annotations

import json as json_module
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts import kernels
from contracts.errors import InvalidInput
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import USER, WITH_USER
from contracts.user_side import UserSide
from training.graph import Inputs
from training.recipes.ranker import BUILDERS
from training.serving_graph.planted import train_planted
from training.serving_graph.user_side import write_user_side_checked
from training.serving_graph.write import ServingOptions, write_serving_graph

MODELS = ("dmae", "ciubm")
CANDIDATES = 100
BEHAVIOURS = (16, 64, 256, 1_000)
_WARM_RUNS, _LEAST_RUNS = 3, 20

Scores = Callable[[Inputs], Inputs]
KeepStates = Callable[[UserSide], tuple[Scores, Scores]]


def run(
    keep_states: KeepStates,
    *,
    json: bool = False,
    models: Sequence[str] = MODELS,
    behaviours: Sequence[int] = BEHAVIOURS,
    steps: int = 20,
    seconds: float = 4.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Time each ranker of `models` at N = 100 and every T of `behaviours`, one thread; print and return all.

    keep_states: a user side -> how a request is scored where its state is kept, and where it is not.
    json: the one line printed is the result as JSON. steps: of training, on planted data. `whole_ms`: the
    graph in one piece; `hit_ms`, `miss_ms`: in two; medians of runs in turn, one request of distinct items.
    `state_bytes`, `history_bytes`: of one kept user; `max_abs_diff`: of a score from the whole graph's.
    Raises InvalidInput for a ranker that training.recipes.ranker does not know.
    """
    for name in models:
        if name not in BUILDERS:
            raise InvalidInput("models", name, f"must be among {', '.join(BUILDERS)}")
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        library = kernels.build(Path(scratch))
        for name in models:
            planted = train_planted(name, history_length=max(behaviours), steps=steps, seed=seed)
            for t in behaviours:
                directory = Path(scratch) / f"{name}-{t}"
                directory.mkdir()
                graph, inputs = directory / "ranker.onnx", planted.inputs(CANDIDATES, t, seed + 1)
                write_serving_graph(planted.trained.model, graph, ServingOptions(behaviours=t))
                difference = write_user_side_checked(graph, directory, inputs)
                whole, first, second = (
                    OnnxModel(path, kernels=library)
                    for path in (graph, directory / USER, directory / WITH_USER)
                )
                side = UserSide(first, second)
                history = side.history(inputs)
                hit, miss = keep_states(side)
                ways: dict[str, Scores] = {"whole": whole.run, "hit": hit, "miss": miss}
                case = {"model": name, "n": CANDIDATES, "t": t, **_measure(ways, inputs, seconds)}
                case["state_bytes"] = sum(a.nbytes for a in side.state(history).values())
                case["history_bytes"] = sum(a.nbytes for a in history.values())
                case["gate_difference"] = difference
                cases.append(case)
                if not json:
                    print(json_module.dumps(case), flush=True)
    result = {"cases": cases, "kernels": library is not None, "threads": 1}
    print(table(result) if not json else json_module.dumps(result), flush=True)
    return result


def _measure(ways: Mapping[str, Scores], inputs: Inputs, seconds: float) -> dict[str, Any]:
    scores = {name: way(inputs)["score"] for name, way in ways.items()}
    for _ in range(_WARM_RUNS - 1):
        for way in ways.values():
            way(inputs)
    times: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["hit"]) < _LEAST_RUNS:
        for name, way in ways.items():
            began = time.perf_counter()
            way(inputs)
            times[name].append(1e3 * (time.perf_counter() - began))
    return {
        **{f"{name}_ms": round(statistics.median(values), 4) for name, values in times.items()},
        "saved": round(1 - statistics.median(times["hit"]) / statistics.median(times["whole"]), 4),
        "max_abs_diff": max(float(np.abs(scores["whole"] - s).max()) for s in scores.values()),
        "runs": len(times["hit"]),
    }


def table(result: Mapping[str, Any]) -> str:
    """The cases as plain text, one per line."""
    columns = ("model", "n", "t", "whole_ms", "hit_ms", "miss_ms", "saved", "state_bytes", "history_bytes")
    lines = ["".join(f"{c:>14}" for c in columns)]
    return "\n".join(lines + ["".join(f"{case[c]!s:>14}" for c in columns) for case in result["cases"]])
