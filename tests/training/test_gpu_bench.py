"""The GPU benchmark's own arithmetic, on the CPU: ways, parity, flips, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from contracts.errors import InvalidInput, ProviderUnavailable
from contracts.onnx_model import OnnxModel
from tests.training.serving_graph.rankers import ranker, requests
from tests.training.serving_graph.test_parity import RANKERS
from training.gpu_bench import GpuOptions, differences, last_line, run
from training.models.dmae import DmaeConfig
from training.serving_graph.half_products import half_products
from training.serving_graph.write import ServingOptions, serving_model, write_serving_graph

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_on_the_cpu_it_measures_what_the_cpu_has() -> None:
    result = run(GpuOptions(("dmae",), (20, 33), 17, steps=10, seconds=0.05, device="cpu"))
    assert json.loads(last_line(result)) == result
    assert {(c["n"], c["way"]) for c in result["cases"]} == {
        (n, way) for n in (20, 33) for way in ("plain", "bound", "buckets", "fp16")
    }
    assert set(result["refused"]) == {"captured", "tf32"}
    for case in result["cases"]:
        assert 0 < case["p50_ms"] <= case["p99_ms"]
        assert min(case["rps"], case["first_ms"], case["runs"]) > 0
        assert case["score_diff"] <= (0.02 if case["way"] == "fp16" else 1e-6)
    assert all(case["logit_diff"] > 0 for case in result["cases"] if case["way"] == "fp16")
    assert result["flips"]["fp32"] == 0
    assert 0 <= result["flips"]["fp16"] < result["flips"]["of"] == 33 * 17


def test_differences_are_the_largest_of_all_requests() -> None:
    def outputs(*values: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        return {name: np.array([values], np.float32) for name in ("logit", "score")}

    wanted = [outputs(1, 2), outputs(3, 4)]
    assert differences(wanted, wanted) == {"logit_diff": 0.0, "score_diff": 0.0}
    assert differences(wanted, [outputs(1, 2.5), outputs(2, 4)])["logit_diff"] == 1
    assert differences(wanted, [outputs(1, 2), outputs(np.nan, 4)])["score_diff"] == np.inf


@pytest.mark.parametrize("name", ["din", "ciubm", "dmae", "everything"])
def test_dense_layers_in_halves_stay_close(name: str, tmp_path: Path) -> None:
    made = RANKERS[name]()
    write_serving_graph(made, tmp_path / "single.onnx")
    changed = half_products(onnx.load(str(tmp_path / "single.onnx")))
    onnx.save_model(changed, str(tmp_path / "half.onnx"))
    assert not changed.functions
    inputs = requests(2, 15, 33)
    single, half = (OnnxModel(tmp_path / f).run(inputs)["score"] for f in ("single.onnx", "half.onnx"))
    assert 0 < np.abs(single - half).max() < 0.02


def test_similarities_stay_single() -> None:
    changed = half_products(serving_model(ranker(DmaeConfig(dim=16, buckets=50)), ServingOptions()))
    halves = {n.output[0] for n in changed.graph.node if n.op_type == "Cast" and n.attribute[0].i == 10}
    products = [n for n in changed.graph.node if n.op_type in ("MatMul", "Gemm")]
    single = [n for n in products if n.input[0] not in halves]
    assert len(single) < len(products)
    assert sum("Cast" in n.input[0] or "Gather" in n.input[0] for n in single) >= 2  # one per modality


def test_an_unknown_ranker_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"models.*'lstm'"):
        run(GpuOptions(models=("lstm",)))


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime was built with CUDA")
def test_without_a_gpu_nothing_is_measured() -> None:
    with pytest.raises(ProviderUnavailable, match="no cuda: onnxruntime was built without it"):
        run(GpuOptions())
