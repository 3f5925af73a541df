"""A trained ranker as the ONNX graph of contracts.features, and the proof that both give the same logits.

ID rows come in from outside: the graph holds no ID table. DMAE's decoder is not evaluated in eval mode,
so it is not in the graph either.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim

from contracts.calibration import UNCALIBRATED, Calibration
from contracts.codec import Rows
from contracts.errors import BrokenBundle
from contracts.features import GRAPH_OUTPUTS
from contracts.onnx_model import OnnxModel
from training.batches import make_batch
from training.data.samples import Samples
from training.item_table import ItemTable
from training.literal.chunks import InChunks
from training.literal.ranker import LiteralRanker
from training.models.items import ItemRows
from training.models.ranker import Ranker
from training.models.view import Requests

OPSET = 20
_BY_REQUEST = ("context", "context_values", "query_codes", "query_inv_norm")
PARITY = 1e-5  # on the logit, relative where it is larger than 1
_SCORE = 2e-6  # on the score beside its own logit: rounding in float32

Inputs = dict[str, npt.NDArray[Any]]
AnyRanker = Ranker | LiteralRanker


class RankerGraph(nn.Module):
    """The ranker behind the serving signature: its config's `inputs` -> logit, score (B, N) float32.

    logit is the ranker's own, score the calibrated probability.
    """

    def __init__(
        self,
        ranker: AnyRanker,
        calibration: Calibration = UNCALIBRATED,
        explained: LiteralRanker | None = None,
    ) -> None:
        """explained: `ranker` itself where the outputs of LiteralRanker.explain are wanted, too."""
        super().__init__()
        self.ranker = ranker
        self.calibration = calibration
        self.names = ranker.config.inputs
        self.explained = explained
        self.note_names: list[str] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Shapes and types as in contracts.features, and behind them what explains a score (`explained`)."""
        given = dict(zip(self.names, inputs, strict=True))
        rows = ItemRows(
            codes=given["codes"],
            inv_norm=given["inv_norm"],
            attributes=given["attributes"],
            id_vectors=given["id_codes"].float() * given["id_scale"].unsqueeze(1),
            id_known=given["id_known"],
            id_evidence=given.get("id_evidence"),
            attribute_values=given.get("attribute_values"),
        )
        requests = Requests(**{name: given[name] for name in Requests._fields if name in given})
        notes: dict[str, Tensor] = {}
        if self.explained is None:
            logit = self.ranker(rows, requests).logit
        else:
            logit, notes = self.explained.explain(rows, requests)
            self.note_names[:] = notes
        scaled = (
            logit
            if self.calibration.changes_nothing
            else self.calibration.scale * logit + self.calibration.offset
        )
        return logit, torch.sigmoid(scaled), *notes.values()


def graph_inputs(
    samples: Samples, chosen: npt.NDArray[np.int64], items: ItemTable, id_rows: Rows, history_length: int
) -> Inputs:
    """The graph's inputs for the samples `chosen`, as serving would send them.

    id_rows: (I+1,) int8 ID rows by row of the item table; version 0 where the item has none.
    """
    batch = make_batch(samples, chosen, history_length, items)
    ids = id_rows[batch.items]
    return {
        "codes": items.codes[batch.content],
        "inv_norm": items.inv_norm[batch.content],
        "attributes": items.attributes[batch.content],
        "attribute_values": items.attribute_values[batch.content],
        "id_codes": np.ascontiguousarray(ids["codes"]),
        "id_scale": np.ascontiguousarray(ids["scale"]),
        "id_known": ids["version"] != 0,
        "id_evidence": ids["evidence"].astype(np.float32),
        **{name: value.numpy() for name, value in batch.requests._asdict().items() if value is not None},
    }


def write_graph(
    ranker: AnyRanker,
    path: Path,
    calibration: Calibration = UNCALIBRATED,
    explained: LiteralRanker | None = None,
) -> None:
    """Trace and write one self-contained ONNX file with free K, B, N and T. explained: as of RankerGraph."""
    inputs = _example(ranker)
    names = ranker.config.inputs
    rows, requests, candidates, behaviours = Dim("K"), Dim("B"), Dim("N"), Dim("T")
    # a model of one behaviour has no free T: the exporter wants at least 2 of what is free
    by_behaviour = {0: requests, 1: behaviours} if inputs["behaviours"].shape[1] > 1 else {0: requests}
    free: dict[str, dict[int, Dim]] = {
        "candidates": {0: requests, 1: candidates},
        **dict.fromkeys(("behaviours", "behaviour_mask", "gaps"), by_behaviour),
        **{name: {0: requests} for name in _BY_REQUEST},
    }
    graph = RankerGraph(ranker, calibration, explained).eval()
    example = tuple(torch.from_numpy(inputs[name]) for name in names)
    with torch.inference_mode():
        graph(*example)
    with _quiet_exporter():
        program = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[*GRAPH_OUTPUTS, *graph.note_names],
            dynamic_shapes=(tuple(free.get(name, {0: rows}) for name in names),),
            verbose=False,
        )
    assert program is not None
    # the exporter's notes: stack traces with this machine's paths, names of weights that the graph has not
    program.model.metadata_props.clear()
    program.model.graph.metadata_props.clear()
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.save(path, external_data=False)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what torch's exporter says of itself: deprecated calls, shared axis names, no torchvision."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="# The axis name")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _example(ranker: AnyRanker) -> Inputs:
    """Valid inputs to trace on, no two sizes equal: K=7, B=3, N=5, T=min(4, T_max)."""
    config = ranker.config
    rows, requests, candidates, behaviours = 7, 3, 5, min(4, config.history_length)
    generator = np.random.default_rng(0)
    dims = [m.dim for m in config.modalities]
    return {
        "codes": generator.integers(-127, 128, (rows, sum(dims))).astype(np.int8),
        "inv_norm": np.ones((rows, len(dims)), dtype=np.float32),
        "attributes": np.zeros((rows, sum(config.attributes.slots)), dtype=np.int32),
        "id_codes": generator.integers(-127, 128, (rows, config.id_dim)).astype(np.int8),
        "id_scale": np.full(rows, 1e-3, dtype=np.float32),
        "id_known": np.ones(rows, dtype=bool),
        "candidates": generator.integers(1, rows, (requests, candidates)).astype(np.int32),
        "behaviours": generator.integers(1, rows, (requests, behaviours)).astype(np.int32),
        "behaviour_mask": np.ones((requests, behaviours), dtype=bool),
        "attribute_values": np.ones((rows, sum(config.attributes.slots)), dtype=np.float32),
        "id_evidence": np.ones(rows, dtype=np.float32),
        "gaps": np.zeros((requests, behaviours), dtype=np.int32),
        "context": np.zeros((requests, sum(config.context.slots)), dtype=np.int32),
        "context_values": np.ones((requests, sum(config.context.slots)), dtype=np.float32),
        "query_codes": generator.integers(-127, 128, (requests, sum(dims))).astype(np.int8),
        "query_inv_norm": np.ones((requests, len(dims)), dtype=np.float32),
    }


def reference(
    ranker: AnyRanker, inputs: Inputs, calibration: Calibration = UNCALIBRATED
) -> dict[str, npt.NDArray[np.float32]]:
    """What torch gives for the graph's inputs: logit and score (B, N)."""
    with torch.inference_mode():
        names = ranker.config.inputs
        graph = RankerGraph(ranker, calibration).eval()
        outputs = graph(*(torch.from_numpy(inputs[name]) for name in names))
    return {name: value.numpy() for name, value in zip(GRAPH_OUTPUTS, outputs, strict=True)}


def check_parity(
    ranker: AnyRanker,
    model: OnnxModel | InChunks,
    inputs: Inputs,
    tolerance: float = PARITY,
    calibration: Calibration = UNCALIBRATED,
) -> float:
    """The largest difference of a logit between torch and ONNX Runtime over `parity_cases`.

    Differences are relative where a logit is larger than 1. Raises BrokenBundle above `tolerance`, and where
    a score is not the calibrated probability of its own logit.
    """
    worst = 0.0
    for case, changed in parity_cases(inputs):
        outputs = model.run(changed)
        wanted, got = reference(ranker, changed)["logit"], outputs["logit"]
        if wanted.shape != got.shape:
            raise BrokenBundle(f"graph, {case}: logit has shape {got.shape}, not {wanted.shape}")
        difference = float((np.abs(wanted - got) / np.maximum(1, np.abs(wanted))).max(initial=0.0))
        if not difference <= tolerance:
            raise BrokenBundle(f"graph, {case}: a logit differs from torch by {difference:.3g}")
        check_scores(outputs, calibration, case)
        worst = max(worst, difference)
    return worst


def check_scores(outputs: Inputs, calibration: Calibration, case: str) -> None:
    """Raises BrokenBundle where a graph's score is not what `calibration` makes of its logit."""
    difference = float(np.abs(calibration.scores(outputs["logit"]) - outputs["score"]).max(initial=0.0))
    if not difference <= _SCORE:
        raise BrokenBundle(f"graph, {case}: a score is {difference:.3g} off its calibrated logit")


def parity_cases(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """The inputs as they are, and bent to every edge that serving can meet."""
    candidates, behaviours, mask = (inputs[name] for name in ("candidates", "behaviours", "behaviour_mask"))
    shift = min(3, mask.shape[1])
    by_behaviour = [n for n in ("behaviours", "behaviour_mask", "gaps") if n in inputs]
    by_request = [n for n in ("candidates", *by_behaviour, *_BY_REQUEST) if n in inputs]
    older = {n: np.pad(inputs[n][:, shift:], ((0, 0), (shift, 0))) for n in by_behaviour}
    nothing = np.zeros_like(mask)
    yield "as given", inputs
    yield "one request", inputs | {n: inputs[n][:1] for n in by_request}
    yield "one candidate", inputs | {"candidates": candidates[:, :1]}
    yield "one behaviour", inputs | {n: inputs[n][:, -1:] for n in by_behaviour}
    yield "longer padding", inputs | older
    yield "empty history", inputs | {"behaviours": np.zeros_like(behaviours), "behaviour_mask": nothing}
    yield "unknown ids", inputs | {"id_known": np.zeros_like(inputs["id_known"])}
    yield "no content", inputs | {"inv_norm": np.zeros_like(inputs["inv_norm"])}
    for m in range(inputs["inv_norm"].shape[1]):
        missing = inputs["inv_norm"].copy()
        missing[:, m] = 0
        yield f"modality {m} missing", inputs | {"inv_norm": missing}
    yield "no attributes", inputs | {"attributes": np.zeros_like(inputs["attributes"])}
    for absent in (name for name in (*_BY_REQUEST, "gaps", "id_evidence") if name in inputs):
        yield f"no {absent}", inputs | {absent: np.zeros_like(inputs[absent])}
