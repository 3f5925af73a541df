"""A trained ranker as the serving graph: the inputs and outputs of contracts.features, rewritten for speed.

Everything is exact up to rounding but DMAE's similarity table. The reference it is checked against is
training.graph's module, which has none of these rewrites beyond those that training itself uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from contracts.calibration import UNCALIBRATED, Calibration
from contracts.errors import BrokenBundle, InvalidInput
from contracts.features import GRAPH_OUTPUTS
from contracts.onnx_model import OnnxModel
from training.graph import PARITY, Inputs, check_parity, check_scores, parity_cases, reference
from training.models.ciubm import Ciubm
from training.models.dmae import Dmae
from training.models.query import QuerySimilarity
from training.models.ranker import Ranker
from training.models.recency import RecencySimilarity
from training.models.simtier import SimTier
from training.models.target_vector import TargetVector
from training.serving_graph import ciubm as ciubm_graph
from training.serving_graph import dmae as dmae_graph
from training.serving_graph import id_interest, similarity_features
from training.serving_graph.builder import GraphBuilder, array
from training.serving_graph.inputs import Inputs as Gathered
from training.serving_graph.inputs import column_embedding
from training.serving_graph.mieu import Table

TABULATED = 4e-4  # absolute, on the logit: what the similarity table may cost
_MOST_CELLS = 1024  # 6.4 MB per modality at 50 buckets and d = 32
WANTED = TABULATED / 8  # of the inputs that are checked: a sample, and the largest errors are rare


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """cells: of the similarity table per bucket, a power of two up to 1,024; None = exact, without a table.

    behaviours: the T to expect, for the choice of CiUBM's form; None = the ranker's history length.
    calibration: what the score does to the logit.
    """

    cells: int | None = 64
    behaviours: int | None = None
    calibration: Calibration = UNCALIBRATED

    def __post_init__(self) -> None:
        if self.cells is not None and not (
            0 < self.cells <= _MOST_CELLS and self.cells & (self.cells - 1) == 0
        ):
            raise InvalidInput("serving.cells", self.cells, f"must be a power of two up to {_MOST_CELLS}")
        if self.behaviours is not None and self.behaviours < 1:
            raise InvalidInput("serving.behaviours", self.behaviours, "must be at least 1")


class ServingParity(NamedTuple):
    """Largest differences of a logit from torch: without the similarity table, and with one of `cells`."""

    folded: float
    tabulated: float
    cells: int | None


def write_serving_graph(ranker: Ranker, path: Path, options: ServingOptions | None = None) -> None:
    """Write one self-contained ONNX file with free K, B, N and T."""
    onnx.save_model(serving_model(ranker, options or ServingOptions()), str(path))


def write_checked(
    ranker: Ranker,
    path: Path,
    inputs: Inputs,
    options: ServingOptions | None = None,
    *,
    kernels: Path | None = None,
) -> ServingParity:
    """`write_serving_graph` behind both gates, over training.graph.parity_cases of `inputs`.

    inputs: some hundred pairs. kernels: the library of contracts.kernels, checked beside the graph's bodies.

    Where the table costs more than an eighth of what it may, it gets twice the cells, up to 1,024 per bucket:
    `inputs` are a sample, and the largest errors are rare.
    A ranker that has nothing to tabulate is written with cells = None and held to the first gate alone.
    Raises BrokenBundle where a logit of the graph without a table is off by more than 1e-5 (relative above
    1), or one of the graph as written by more than 4e-4, divided by the calibration's scale where that is
    above 1, or where a score is not the calibrated probability of its logit.
    """
    chosen = options or ServingOptions()
    steeper = max(1.0, chosen.calibration.scale)
    if not _tabulates(ranker):
        chosen = replace(chosen, cells=None)
    with tempfile.TemporaryDirectory() as directory:
        exact = Path(directory) / "folded.onnx"
        write_serving_graph(ranker, exact, replace(chosen, cells=None))
        folded = check_parity(ranker, OnnxModel(exact), inputs, PARITY, chosen.calibration)
    while True:
        write_serving_graph(ranker, path, chosen)
        models = [OnnxModel(path, kernels=library) for library in {None, kernels}]
        tabulated = largest_difference(ranker, models, inputs, chosen.calibration)
        if steeper * tabulated <= WANTED:
            return ServingParity(folded, tabulated, chosen.cells)
        if chosen.cells is None or chosen.cells == _MOST_CELLS:
            break
        chosen = replace(chosen, cells=2 * chosen.cells)
    if not steeper * tabulated <= TABULATED:
        raise BrokenBundle(f"serving graph: a logit differs from torch by {tabulated:.3g}")
    return ServingParity(folded, tabulated, chosen.cells)


def _tabulates(ranker: Ranker) -> bool:
    return any(isinstance(m, Dmae) and not m.config.without_mieu_se for m in ranker.content)


def largest_difference(
    ranker: Ranker, models: Sequence[OnnxModel], inputs: Inputs, calibration: Calibration | None = None
) -> float:
    """The largest absolute difference of a logit from torch over training.graph.parity_cases.

    calibration: where given, scores are checked against it (training.graph.check_scores).
    """
    worst = 0.0
    for case, changed in parity_cases(inputs):
        wanted = reference(ranker, changed)["logit"]
        for model in models:
            outputs = model.run(changed)
            worst = max(worst, float(np.abs(outputs["logit"] - wanted).max(initial=0.0)))
            if calibration is not None:
                check_scores(outputs, calibration, case)
    return worst


def serving_model(ranker: Ranker, options: ServingOptions) -> Any:
    """The ModelProto."""
    b = GraphBuilder()
    inputs = Gathered(b, ranker)
    layers = [layer for layer in ranker.network if isinstance(layer, nn.Linear)]
    first = array(layers[0].weight).T  # (features, h), rows in the order of the modules
    dense: list[tuple[str, Table]] = []  # (B, N, w) and its rows of `first`
    added: list[str] = []  # (B, N, h), through `first` already
    start = 0

    def rows(width: int) -> Table:
        nonlocal start
        start += width
        return first[start - width : start]

    dense.append((inputs.candidates, rows(inputs.width)))
    if ranker.id_interest is not None:
        dense.append((id_interest.id_interest(b, inputs, ranker.id_interest), rows(inputs.width)))
    for module in ranker.content:
        match module:
            case Dmae():
                dense.append((dmae_graph.dmae(b, inputs, module, options.cells), rows(module.width)))
            case Ciubm():
                form = _form(module, inputs, options)
                added.append(ciubm_graph.ciubm(b, inputs, module, rows(module.width), form))
            case SimTier():
                dense.append((similarity_features.simtier(b, inputs, module), rows(module.width)))
            case RecencySimilarity():
                dense.append((similarity_features.recency_similarity(b, inputs, module), rows(module.width)))
            case QuerySimilarity():
                dense.append((similarity_features.query_similarity(b, inputs, module), rows(module.width)))
            case TargetVector():
                own = rows(module.width)
                dense.append(similarity_features.target_vector(b, inputs, module, own))
            case _:
                raise InvalidInput("ranker.content", type(module).__name__, "has no serving graph")
    if ranker.context is not None:
        about = column_embedding(b, ranker.context, "context", "context_values")
        joined = about[0] if len(about) == 1 else b.op("Concat", *about, axis=1)
        per_request = b.op("MatMul", joined, b.const(rows(ranker.context.width)))  # (B, h), once per request
        shape = b.op("Concat", b.op("Shape", "candidates"), b.ints(layers[0].out_features), axis=0)
        added.append(b.op("Expand", b.unsqueeze(per_request, 1), shape))
    logit = _network(b, dense, added, layers)
    logit = b.reshape(logit, b.size("candidates", 0), b.size("candidates", 1))
    b.nodes.append(helper.make_node("Identity", [logit], ["logit"]))
    b.nodes.append(helper.make_node("Sigmoid", [_calibrated(b, logit, options.calibration)], ["score"]))
    return b.model(_signature(ranker), _outputs())


def _calibrated(b: GraphBuilder, logit: str, calibration: Calibration) -> str:
    if calibration.changes_nothing:
        return logit
    return b.op("Add", b.op("Mul", logit, b.const(calibration.scale)), b.const(calibration.offset))


def _form(module: Ciubm, inputs: Gathered, options: ServingOptions) -> ciubm_graph.Form:
    expected = options.behaviours or inputs.history_length
    dim = inputs.dim(module.config.modality)
    pays = ciubm_graph.matrices_pay(dim, inputs.width, expected)
    return "matrices" if pays and ciubm_graph.possible(module) else "loop"


def _network(
    b: GraphBuilder, dense: list[tuple[str, Table]], added: list[str], layers: list[nn.Linear]
) -> str:
    """The deep network over all B * N candidates at once: (B * N, 1)."""
    weight = np.concatenate([rows for _, rows in dense])
    parts = [name for name, _ in dense]
    x = parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=2)
    x = b.reshape(x, -1, weight.shape[0])
    x = b.op("Gemm", x, b.const(weight), b.const(array(layers[0].bias)))
    for extra in added:
        x = b.op("Add", x, b.reshape(extra, -1, weight.shape[1]))
    for layer in layers[1:]:
        x = b.op("Gemm", b.op("Relu", x), b.const(array(layer.weight).T), b.const(array(layer.bias)))
    return x


def _signature(ranker: Ranker) -> list[Any]:
    config = ranker.config
    modalities = config.modalities
    kinds: dict[str, tuple[int, list[str | int]]] = {
        "codes": (TensorProto.INT8, ["K", sum(m.dim for m in modalities)]),
        "inv_norm": (TensorProto.FLOAT, ["K", len(modalities)]),
        "attributes": (TensorProto.INT32, ["K", sum(config.attributes.slots)]),
        "id_codes": (TensorProto.INT8, ["K", config.id_dim]),
        "id_scale": (TensorProto.FLOAT, ["K"]),
        "id_known": (TensorProto.BOOL, ["K"]),
        "candidates": (TensorProto.INT32, ["B", "N"]),
        "behaviours": (TensorProto.INT32, ["B", "T"]),
        "behaviour_mask": (TensorProto.BOOL, ["B", "T"]),
        "attribute_values": (TensorProto.FLOAT, ["K", sum(config.attributes.slots)]),
        "id_evidence": (TensorProto.FLOAT, ["K"]),
        "gaps": (TensorProto.INT32, ["B", "T"]),
        "context": (TensorProto.INT32, ["B", sum(config.context.slots)]),
        "context_values": (TensorProto.FLOAT, ["B", sum(config.context.slots)]),
        "query_codes": (TensorProto.INT8, ["B", sum(m.dim for m in modalities)]),
        "query_inv_norm": (TensorProto.FLOAT, ["B", len(modalities)]),
    }
    return [helper.make_tensor_value_info(name, *kinds[name]) for name in config.inputs]


def _outputs() -> list[Any]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "N"]) for name in GRAPH_OUTPUTS]
