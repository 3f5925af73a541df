"""`repcenter bench gpu`: latency, throughput and parity of rankers on a GPU, against the CPU's scores."""

from __future__ import annotations

import json as json_module
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from contracts import kernels
from contracts.errors import InvalidInput, ProviderUnavailable
from contracts.onnx_model import Device, OnnxModel, check_runtime, has_device
from contracts.shape_buckets import ShapeBuckets, buckets_for, pad, shape_of
from training.graph import Inputs
from training.recipes.ranker import BUILDERS
from training.serving_graph.builder import GraphBuilder
from training.serving_graph.half_products import half_products
from training.serving_graph.planted import Planted, train_planted
from training.serving_graph.write import ServingOptions, write_serving_graph

MODELS = ("dmae", "ciubm")
CANDIDATES = (100, 500, 1_000)
BEHAVIOURS = 64
BUCKETS = 50  # of a similarity, DMAE's default
_REQUESTS, _CALLERS, _WARM_RUNS = 8, 4, 5
_DIM = 128

Run = Callable[[Inputs], Inputs]


@dataclass(frozen=True)
class GpuOptions:
    """models: of training.recipes.ranker; candidates: N of the cases, T is `behaviours`; seconds: of each way
    of a case, and of its throughput; device: on cpu it shows what the ways cost there, kernels compiled."""

    models: Sequence[str] = MODELS
    candidates: Sequence[int] = CANDIDATES
    behaviours: int = BEHAVIOURS
    steps: int = 200
    seconds: float = 3.0
    device: Device = "cuda"


def run(options: GpuOptions) -> dict[str, Any]:
    """Train each ranker a little on planted data and measure; all as one object.

    Ways: `plain` (no buffers kept), `bound` (IO binding), `buckets` (padded and bound), `captured` (CUDA
    graphs on top), in fp32; `tf32` and `fp16` (dense layers alone, similarities in fp32) in buckets. Per way
    `first_ms` (of this shape in its session), `p50_ms`, `p99_ms` of one caller, ways in turn, `rps` of four,
    `logit_diff`, `score_diff`: the largest from the CPU's fp32. `refused`: ways that this runtime does not
    run, and why. `flips`: of similarities, how many fall into another of 50 buckets than on the CPU, by
    precision. Raises ProviderUnavailable where there is no such device.
    """
    for name in options.models:
        if name not in BUILDERS:
            raise InvalidInput("models", name, f"must be among {', '.join(BUILDERS)}")
    if not has_device(options.device):
        raise ProviderUnavailable(f"no {options.device}: {check_runtime()} was built without it")
    cases: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    result: dict[str, Any] = {"device": options.device, "cases": cases, "refused": refused}
    with tempfile.TemporaryDirectory() as scratch:
        library = kernels.build(Path(scratch)) if options.device == "cpu" else None
        for name in options.models:
            planted = train_planted(name, history_length=options.behaviours, steps=options.steps, seed=0)
            graph = Path(scratch) / f"{name}.onnx"
            write_serving_graph(planted.trained.model, graph, ServingOptions())
            example = planted.inputs(max(options.candidates), options.behaviours, 0)
            ways = _ways(graph, options, example, refused, library)
            result.setdefault("flips", flips(planted, Path(scratch), options))
            for n in options.candidates:
                requests = [planted.inputs(n, options.behaviours, seed) for seed in range(_REQUESTS)]
                model = OnnxModel(graph, kernels=library)
                wanted = [model.run(request) for request in requests]
                times = _in_turn(ways, requests, options.seconds)
                for way, scores in ways.items():
                    case = {"model": name, "n": n, "t": options.behaviours, "way": way, **times[way]}
                    case["rps"] = round(_throughput(scores, requests, options.seconds), 1)
                    cases.append(case | differences(wanted, [scores(request) for request in requests]))
    return result


def last_line(result: Mapping[str, Any]) -> str:
    return json_module.dumps(result)


def _ways(
    graph: Path, options: GpuOptions, example: Inputs, refused: dict[str, str], library: Path | None
) -> dict[str, Run]:
    """How the graph is run; what cannot be is noted in `refused`. example: inputs tried once with each."""
    halves = graph.with_suffix(".half.onnx")
    onnx.save_model(half_products(onnx.load(str(graph))), str(halves))
    ladder = buckets_for(max(options.candidates), options.behaviours)
    plain, bound, padded = (OnnxModel(graph, device=options.device, kernels=library) for _ in range(3))
    ways: dict[str, Run] = {
        "plain": plain.run,
        "bound": bound.run_bound,
        "buckets": _in_buckets(padded, ladder),
    }
    others: dict[str, Callable[[], OnnxModel]] = {
        "captured": lambda: OnnxModel(graph, device=options.device, cuda_graphs=True),
        "tf32": lambda: OnnxModel(graph, device=options.device, tf32=True),
        "fp16": lambda: OnnxModel(halves, device=options.device),
    }
    for name, make in others.items():
        if name == "tf32" and options.device == "cpu":
            refused[name] = "the CPU has no TF32"
            continue
        try:
            way = _in_buckets(make(), ladder)
            way(example)
        except Exception as error:  # ORT's exceptions share no base class; a capture fails in its first run
            refused[name] = str(error)
        else:
            ways[name] = way
    return ways


def _in_buckets(model: OnnxModel, ladder: ShapeBuckets) -> Run:
    def run_padded(inputs: Inputs) -> Inputs:
        shape = shape_of(inputs)
        bucket = ladder.of(shape)
        assert bucket is not None  # the ladder ends with the largest case
        values = model.run_bound(pad(inputs, bucket))
        return {name: value[: shape.requests, : shape.candidates] for name, value in values.items()}

    return run_padded


def _in_turn(
    ways: Mapping[str, Run], requests: Sequence[Inputs], seconds: float
) -> dict[str, dict[str, Any]]:
    times: dict[str, list[float]] = {way: [] for way in ways}
    until = time.perf_counter() + seconds * len(ways)
    done = 0
    while time.perf_counter() < until or done <= _WARM_RUNS + len(requests):
        for way, scores in ways.items():
            began = time.perf_counter()
            scores(requests[done % len(requests)])
            times[way].append(1e3 * (time.perf_counter() - began))
        done += 1
    return {
        way: {
            "first_ms": round(values[0], 4),
            "p50_ms": round(statistics.median(values[_WARM_RUNS:]), 4),
            "p99_ms": round(float(np.percentile(values[_WARM_RUNS:], 99)), 4),
            "runs": len(values) - _WARM_RUNS,
        }
        for way, values in times.items()
    }


def _throughput(scores: Run, requests: Sequence[Inputs], seconds: float) -> float:
    """Requests per second of `_CALLERS` threads."""
    began = time.perf_counter()

    def call(first: int) -> int:
        done = 0
        while not done or time.perf_counter() < began + seconds:
            scores(requests[(first + done) % len(requests)])
            done += 1
        return done

    with ThreadPoolExecutor(_CALLERS) as pool:
        total = sum(pool.map(call, range(_CALLERS)))
    return total / (time.perf_counter() - began)


def differences(wanted: Sequence[Inputs], got: Sequence[Inputs]) -> dict[str, float]:
    """Largest absolute differences of logits and scores; inf where one is not finite."""

    def largest(name: str) -> float:
        apart = [np.abs(w[name].astype(np.float64) - g[name]) for w, g in zip(wanted, got, strict=True)]
        return max(float(np.nan_to_num(a, nan=np.inf).max(initial=0.0)) for a in apart)

    return {"logit_diff": largest("logit"), "score_diff": largest("score")}


def flips(planted: Planted, directory: Path, options: GpuOptions) -> dict[str, Any]:
    """Similarities of planted items by the serving graph's operations: precision -> how many fall into
    another bucket than on the CPU; `of`: how many there are."""
    inputs = planted.inputs(max(options.candidates), options.behaviours, 1)
    for half in (False, True):
        onnx.save_model(_bucket_graph(half), str(directory / f"similarity_{half}.onnx"))
    single, halved = directory / "similarity_False.onnx", directory / "similarity_True.onnx"
    wanted = _buckets(OnnxModel(single), inputs)
    models = {
        "fp32": OnnxModel(single, device=options.device),
        "fp16": OnnxModel(halved, device=options.device),
    }
    if options.device == "cuda":
        models["tf32"] = OnnxModel(single, device=options.device, tf32=True)
    counted = {name: int(np.count_nonzero(_buckets(m, inputs) != wanted)) for name, m in models.items()}
    return {**counted, "of": int(wanted.size)}


def _buckets(model: OnnxModel, inputs: Inputs) -> npt.NDArray[np.float32]:
    rows = inputs["candidates"][0], inputs["behaviours"][0]
    own: Inputs = {
        name: inputs[what][row]
        for row, side in zip(rows, ("candidate", "behaviour"), strict=True)
        for name, what in ((f"{side}_codes", "codes"), (f"{side}_inv_norm", "inv_norm"))
    }
    own = {n: np.ascontiguousarray(a[:, :_DIM] if "codes" in n else a[:, :1]) for n, a in own.items()}
    found: npt.NDArray[np.float32] = model.run(own)["bucket"]
    return found


def _bucket_graph(half: bool) -> Any:
    """half: unit vectors and their product in float16; raw codes' products would overflow there."""
    b = GraphBuilder()
    vectors, scales = [], []
    for side in ("candidate", "behaviour"):
        vectors.append(b.op("Cast", f"{side}_codes", to=TensorProto.FLOAT))
        scales.append(f"{side}_inv_norm")
    if half:
        vectors = [b.op("Mul", v, s) for v, s in zip(vectors, scales, strict=True)]
        vectors = [b.op("Cast", v, to=TensorProto.FLOAT16) for v in vectors]
    cosine = b.op("MatMul", vectors[0], b.op("Transpose", vectors[1], perm=[1, 0]))
    if half:
        cosine = b.op("Cast", cosine, to=TensorProto.FLOAT)
    else:
        cosine = b.op("Mul", b.op("Mul", cosine, scales[0]), b.op("Transpose", scales[1], perm=[1, 0]))
    r = b.op("Mul", b.op("Add", cosine, b.const(1.0)), b.const(0.5))
    last = b.const(float(BUCKETS - 1))
    scaled = b.op("Clip", b.op("Mul", r, last), b.const(0.0), last)
    b.nodes.append(helper.make_node("Floor", [scaled], ["bucket"]))
    given = [
        helper.make_tensor_value_info(f"{side}_{what}", kind, [axis, width])
        for side, axis in (("candidate", "N"), ("behaviour", "T"))
        for what, kind, width in (("codes", TensorProto.INT8, _DIM), ("inv_norm", TensorProto.FLOAT, 1))
    ]
    return b.model(given, [helper.make_tensor_value_info("bucket", TensorProto.FLOAT, ["N", "T"])])
