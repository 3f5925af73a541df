"""`repcenter bench graph`: the serving graph beside the literal one, one thread, on trained weights."""

from __future__ import annotations

import json as json_module
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts import kernels
from contracts.errors import InvalidInput
from contracts.onnx_model import OnnxModel
from training.graph import Inputs, check_parity, write_graph
from training.literal.chunks import InChunks, literal_chunk
from training.literal.ranker import LiteralRanker
from training.recipes.ranker import BUILDERS
from training.serving_graph.floor import BestRate, multiply_adds
from training.serving_graph.planted import Planted, train_planted
from training.serving_graph.write import ServingOptions, write_checked

MODELS = ("dmae", "ciubm")
CANDIDATES = (100, 500, 1_000)
BEHAVIOURS = (64, 1_000)
_WARM_RUNS, _LEAST_RUNS = 3, 5
_SLOW_RUNS = 2  # timed runs of a graph of which five would not fit into a case's seconds
_PARITY_CANDIDATES, _PARITY_BEHAVIOURS = 600, 64


def run(
    *,
    json: bool = False,
    models: Sequence[str] = MODELS,
    candidates: Sequence[int] = CANDIDATES,
    behaviours: Sequence[int] = BEHAVIOURS,
    steps: int = 200,
    seconds: float = 6.0,
    seed: int = 0,
    with_kernels: bool = True,
) -> dict[str, Any]:
    """Train each model a little on planted data, write both graphs, time them in turn; print and return all.

    models: of training.recipes.ranker, InvalidInput for another name.
    json: the last line printed is the result as one JSON object, and progress lines are left out.
    steps: of training; seconds: spent timing each case, at least 5 runs; with_kernels: also compile and use
    contracts.kernels. `plain_ms`: the literal graph of training.literal; `module_ms`: the training module as
    torch exports it; `serving_ms`: the serving graph as it would be served here; `portable_ms`: the same file
    without kernels; all medians of interleaved runs. `plain_chunk`: the candidates that the literal graph
    takes at once, fewer than n where all would need more than about 6 GB; its time is then that of all
    chunks. `plain_runs`: timed runs of it, 2 where five do not fit into `seconds`.
    Parity is over training.graph.parity_cases of 600 candidates: `literal` and `module` relative to torch's
    logits of the module.
    """
    for name in models:
        if name not in BUILDERS:
            raise InvalidInput("models", name, f"must be among {', '.join(BUILDERS)}")
    rate = BestRate()
    cases: list[dict[str, Any]] = []
    parity: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        library = kernels.build(directory) if with_kernels else None
        for name in models:
            planted = train_planted(name, history_length=max(behaviours), steps=steps, seed=seed)
            model = planted.trained.model
            write_graph(LiteralRanker(model), directory / f"{name}_literal.onnx")
            write_graph(model, directory / f"{name}_module.onnx")
            literal = OnnxModel(directory / f"{name}_literal.onnx")
            module = OnnxModel(directory / f"{name}_module.onnx")
            for t in behaviours:
                path = directory / f"{name}_{t}.onnx"
                checked = planted.inputs(_PARITY_CANDIDATES, min(t, _PARITY_BEHAVIOURS), seed)
                gates = write_checked(model, path, checked, ServingOptions(behaviours=t), kernels=library)
                parity[f"{name}_{t}"] = {
                    "literal": check_parity(model, literal, checked),
                    "module": check_parity(model, module, checked),
                    **gates._asdict(),
                    "auc": planted.trained.log["validation_auc"],
                }
                graphs: dict[str, OnnxModel | InChunks] = {"module": module, "portable": OnnxModel(path)}
                if library is not None:
                    graphs["serving"] = OnnxModel(path, kernels=library)
                for n in candidates:
                    mflop = 2e-6 * multiply_adds(model.config, n, t)
                    chunk = literal_chunk(model.config, 1, n, t)
                    timed = {"plain": InChunks(literal, chunk), **graphs}
                    times = _measure(timed, planted.inputs(n, t, seed + 1), mflop, rate, seconds)
                    case = {"model": name, "n": n, "t": t, "d": _width(planted), "plain_chunk": chunk}
                    cases.append({**case, **times})
                    if not json:
                        print(json_module.dumps(cases[-1]), flush=True)
    result = {
        "cases": cases,
        "matmuls": list(rate.gflops()),
        "kernels": library is not None,
        "parity": parity,
        "training_steps": steps,
        "threads": 1,
    }
    if not json:
        print(table(result))
    print(json_module.dumps(result), flush=True)
    return result


def _measure(
    graphs: Mapping[str, OnnxModel | InChunks], inputs: Inputs, mflop: float, rate: BestRate, seconds: float
) -> dict[str, Any]:
    """Every graph and every matmul in turn, again and again, so that all see the same machine.

    The literal graph stops after `_SLOW_RUNS` timed runs where its first run took a fifth of `seconds`.
    """
    logits, first = {}, {}
    for name, model in graphs.items():
        began = time.perf_counter()
        logits[name] = model.run(inputs)["logit"]
        first[name] = time.perf_counter() - began
    slow = {name for name in graphs if first[name] * _LEAST_RUNS > seconds and name == "plain"}
    served = "serving" if "serving" in graphs else "portable"
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(_WARM_RUNS - 1):
        for name, model in graphs.items():
            if name not in slow:
                model.run(inputs)
    rate.clear()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[served]) < _LEAST_RUNS:
        for name, model in graphs.items():
            if name in slow and len(times[name]) >= _SLOW_RUNS:
                continue
            began = time.perf_counter()
            model.run(inputs)
            times[name].append(1e3 * (time.perf_counter() - began))
        rate.measure()
    median = {name: statistics.median(values) for name, values in times.items()}
    difference = np.abs(logits["plain"] - logits[served]).max()
    best = max(rate.gflops().values())
    floor = mflop / best
    return {
        "plain_ms": round(median["plain"], 4),
        "module_ms": round(median["module"], 4),
        "serving_ms": round(median[served], 4),
        "portable_ms": round(median["portable"], 4),
        "ratio": round(median["plain"] / median[served], 3),
        "max_abs_diff": float(difference),
        "floor_ms": round(floor, 4),
        "over_floor": round(median[served] / floor, 2),
        "mflop": round(mflop, 1),
        "gflops": round(best, 1),
        "logit_std": round(float(logits["plain"].std()), 4),
        "runs": len(times[served]),
        "plain_runs": len(times["plain"]),
        "plain_best_ms": round(min(times["plain"]), 4),
        "serving_best_ms": round(min(times[served]), 4),
    }


def _width(planted: Planted) -> int:
    """d: DMAE's interest dim, else the width of the content that CiUBM reads, else the ID dim."""
    config = planted.trained.model.config
    dims = {m.name: m.dim for m in config.modalities}
    widths = [getattr(c, "dim", 0) or dims[c.modalities[0]] for c in config.content]
    return max(widths, default=config.id_dim)


def table(result: Mapping[str, Any]) -> str:
    """The cases as plain text, one per line; below, which of them the literal graph took in chunks."""
    times = ("plain_ms", "module_ms", "portable_ms", "serving_ms")
    columns = ("model", "n", "t", *times, "ratio", "floor_ms", "over_floor")
    lines = ["".join(f"{c:>13}" for c in columns)]
    lines += ["".join(f"{case[c]!s:>13}" for c in columns) for case in result["cases"]]
    lines += [
        f"{case['model']}, n {case['n']}, t {case['t']}: plain in chunks of {case['plain_chunk']} candidates"
        for case in result["cases"]
        if case["plain_chunk"] < case["n"]
    ]
    return "\n".join(lines)
