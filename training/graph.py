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

from contracts.codec import Rows
from contracts.errors import BrokenBundle
from contracts.features import GRAPH_INPUTS, GRAPH_OUTPUTS
from contracts.onnx_model import OnnxModel
from training.batches import make_batch
from training.data.samples import Samples
from training.item_table import ItemTable
from training.models.items import ItemRows
from training.models.ranker import Ranker

OPSET = 20
PARITY = 1e-5  # on the logit, relative where it is larger than 1

Inputs = dict[str, npt.NDArray[Any]]


class RankerGraph(nn.Module):
    """The ranker behind the serving signature: GRAPH_INPUTS -> logit, score, both (B, N) float32."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(
        self,
        codes: Tensor,
        inv_norm: Tensor,
        attributes: Tensor,
        id_codes: Tensor,
        id_scale: Tensor,
        id_known: Tensor,
        candidates: Tensor,
        behaviours: Tensor,
        behaviour_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Shapes and types as in contracts.features."""
        id_vectors = id_codes.float() * id_scale.unsqueeze(1)
        rows = ItemRows(codes, inv_norm, attributes, id_vectors, id_known)
        logit = self.ranker(rows, candidates, behaviours, behaviour_mask).logit
        return logit, torch.sigmoid(logit)


def graph_inputs(
    samples: Samples, chosen: npt.NDArray[np.int64], items: ItemTable, id_rows: Rows, history_length: int
) -> Inputs:
    """The graph's inputs for the samples `chosen`, as serving would send them.

    id_rows: (I+1,) int8 ID rows by row of the item table; version 0 where the item has none.
    """
    batch = make_batch(samples, chosen, history_length)
    ids = id_rows[batch.rows]
    return {
        "codes": items.codes[batch.rows],
        "inv_norm": items.inv_norm[batch.rows],
        "attributes": items.attributes[batch.rows],
        "id_codes": np.ascontiguousarray(ids["codes"]),
        "id_scale": np.ascontiguousarray(ids["scale"]),
        "id_known": ids["version"] != 0,
        "candidates": batch.candidates.numpy(),
        "behaviours": batch.behaviours.numpy(),
        "behaviour_mask": batch.behaviour_mask.numpy(),
    }


def write_graph(ranker: Ranker, path: Path) -> None:
    """Trace and write one self-contained ONNX file with free K, B, N and T."""
    inputs = _example(ranker)
    rows, requests, candidates, behaviours = Dim("K"), Dim("B"), Dim("N"), Dim("T")
    by_row = {0: rows}
    # a model of one behaviour has no free T: the exporter wants at least 2 of what is free
    by_behaviour = {0: requests, 1: behaviours} if inputs["behaviours"].shape[1] > 1 else {0: requests}
    with _quiet_exporter():
        program = torch.onnx.export(
            RankerGraph(ranker).eval(),
            tuple(torch.from_numpy(inputs[name]) for name in GRAPH_INPUTS),
            dynamo=True,
            opset_version=OPSET,
            input_names=GRAPH_INPUTS,
            output_names=GRAPH_OUTPUTS,
            dynamic_shapes=((by_row,) * 6 + ({0: requests, 1: candidates}, by_behaviour, by_behaviour)),
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


def _example(ranker: Ranker) -> Inputs:
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
    }


def reference(ranker: Ranker, inputs: Inputs) -> dict[str, npt.NDArray[np.float32]]:
    """What torch gives for the graph's inputs: logit and score (B, N)."""
    with torch.inference_mode():
        outputs = RankerGraph(ranker).eval()(*(torch.from_numpy(inputs[name]) for name in GRAPH_INPUTS))
    return {name: value.numpy() for name, value in zip(GRAPH_OUTPUTS, outputs, strict=True)}


def check_parity(ranker: Ranker, model: OnnxModel, inputs: Inputs, tolerance: float = PARITY) -> float:
    """The largest difference of a logit between torch and ONNX Runtime over `parity_cases`.

    Differences are relative where a logit is larger than 1. Raises BrokenBundle above `tolerance`.
    """
    worst = 0.0
    for case, changed in parity_cases(inputs):
        wanted, got = reference(ranker, changed)["logit"], model.run(changed)["logit"]
        if wanted.shape != got.shape:
            raise BrokenBundle(f"graph, {case}: logit has shape {got.shape}, not {wanted.shape}")
        difference = float((np.abs(wanted - got) / np.maximum(1, np.abs(wanted))).max(initial=0.0))
        if not difference <= tolerance:
            raise BrokenBundle(f"graph, {case}: a logit differs from torch by {difference:.3g}")
        worst = max(worst, difference)
    return worst


def parity_cases(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """The inputs as they are, and bent to every edge that serving can meet."""
    candidates, behaviours, mask = (inputs[name] for name in ("candidates", "behaviours", "behaviour_mask"))
    shift = min(3, mask.shape[1])
    older = {n: np.pad(inputs[n][:, shift:], ((0, 0), (shift, 0))) for n in ("behaviours", "behaviour_mask")}
    nothing = np.zeros_like(mask)
    yield "as given", inputs
    yield "one request", inputs | {n: inputs[n][:1] for n in ("candidates", "behaviours", "behaviour_mask")}
    yield "one candidate", inputs | {"candidates": candidates[:, :1]}
    yield "one behaviour", inputs | {"behaviours": behaviours[:, -1:], "behaviour_mask": mask[:, -1:]}
    yield "longer padding", inputs | older
    yield "empty history", inputs | {"behaviours": np.zeros_like(behaviours), "behaviour_mask": nothing}
    yield "unknown ids", inputs | {"id_known": np.zeros_like(inputs["id_known"])}
    yield "no content", inputs | {"inv_norm": np.zeros_like(inputs["inv_norm"])}
    for m in range(inputs["inv_norm"].shape[1]):
        missing = inputs["inv_norm"].copy()
        missing[:, m] = 0
        yield f"modality {m} missing", inputs | {"inv_norm": missing}
    yield "no attributes", inputs | {"attributes": np.zeros_like(inputs["attributes"])}
