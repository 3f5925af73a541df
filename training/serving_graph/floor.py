"""The least that a request can cost: its multiply-adds over the best rate that the same runtime reaches."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from contracts.errors import InvalidInput
from contracts.onnx_model import OnnxModel
from training.graph import Inputs
from training.models.ciubm import CiubmConfig
from training.models.config import RankerConfig
from training.models.dmae import DmaeConfig
from training.serving_graph.builder import GraphBuilder
from training.serving_graph.ciubm import matrices_pay

# (rows, inner, columns): squares that any BLAS likes, and the shapes of the rankers themselves
MATMULS = ((256, 256, 256), (512, 512, 512), (1024, 256, 256), (6400, 32, 32), (6400, 16, 80), (6400, 80, 40))


def multiply_adds(config: RankerConfig, candidates: int, behaviours: int) -> int:
    """What one request of N candidates and T behaviours needs after every rewriting of the serving graph.

    Counted: matrix products, similarities, attention over exactly the window, poolings, the network. Not
    counted: lookups, additions, activations, softmax, gathers, what blocks read beyond windows, padding.
    For rankers without attributes.
    """
    n, t, v = candidates, behaviours, config.id_dim
    dims = {m.name: m.dim for m in config.modalities}
    total = sum(dims[name] for name in config.content_modalities) * n * t
    features, first = v, config.hidden[0]
    if config.id_interest in ("din", "din_position"):
        layers = (v, *config.din_hidden, 1)
        total += n * t * (sum(a * b for a, b in pairwise(layers)) + v)
        total += n * v * config.din_hidden[0] * 2 + t * v * config.din_hidden[0]
    features += v if config.id_interest != "none" else 0
    for content in config.content:
        if isinstance(content, DmaeConfig):
            d, window = content.dim, min(2 * content.window_radius + 1, t)
            total += 2 * n * (t * (d * d + 2 * window * d + 3 * d) + 2 * d * d)
            features += 2 * d
        elif isinstance(content, CiubmConfig):
            width = dims[content.modality]
            if matrices_pay(width, v, t):
                total -= width * n * t  # no similarity is formed
                total += t * width * (width + v) + width * (width + v) * first + n * width * first
            else:
                total += t * (width + v) * first + n * t * first
        else:
            raise InvalidInput("content", type(content).__name__, "has no count of operations")
    sizes = (features, *config.hidden, 1)
    head = sum(a * b for a, b in pairwise(sizes))
    return total + n * head


class BestRate:
    """MATMULS through ONNX Runtime, one thread: of each the median rate, of those the best."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[OnnxModel, Inputs, float]] = {}
        rng = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as directory:
            for rows, inner, columns in MATMULS:
                b = GraphBuilder()
                weight = b.const(rng.normal(size=(inner, columns)))
                b.nodes.append(helper.make_node("MatMul", ["x", weight], ["y"]))
                model = b.model(
                    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inner])],
                    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
                )
                path = Path(directory) / "matmul.onnx"
                onnx.save_model(model, str(path))
                x = rng.normal(size=(rows, inner)).astype(np.float32)
                gigaflop = 2e-9 * rows * inner * columns
                self._models[f"{rows}x{inner}x{columns}"] = (OnnxModel(path), {"x": x}, gigaflop)
        self.clear()

    def clear(self) -> None:
        """Forget what was measured."""
        self._seconds: dict[str, list[float]] = {name: [] for name in self._models}

    def measure(self) -> None:
        """Run each once more."""
        for name, (model, inputs, _) in self._models.items():
            began = time.perf_counter()
            model.run(inputs)
            self._seconds[name].append(time.perf_counter() - began)

    def gflops(self) -> dict[str, float]:
        """Of each matmul since `clear`."""
        return {
            name: gigaflop / statistics.median(self._seconds[name])
            for name, (_, _, gigaflop) in self._models.items()
        }
