"""From a trained ranker to a sealed bundle: graphs, ID rows, golden outputs, how to read features, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import Bundle, seal, write_golden
from contracts.calibration import UNCALIBRATED
from contracts.errors import InvalidInput
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import REFERENCE, RankerSpec
from contracts.schema import FeatureSchema
from contracts.space import Space
from param_server.id_rows import write_id_rows
from training.data.samples import Samples
from training.graph import check_parity, graph_inputs, write_graph
from training.int8_gate import Int8Gate, check_int8
from training.item_table import ItemTable
from training.literal.chunks import InChunks
from training.literal.ranker import LiteralRanker
from training.loop import TrainedRanker
from training.reliability import CalibrationReport
from training.reliability_plot import write_reliability
from training.serving_graph.user_side import write_user_side_checked
from training.serving_graph.write import ServingOptions, write_checked
from training.weights import WEIGHTS, Overlay, write_weights

GRAPH = "ranker"  # name of the graph in golden.npz
RELIABILITY = "reliability"  # .json of every curve, .svg of the test split's
_GOLDEN_REQUESTS = 16
_MOST_REQUESTS, _LEAST_REQUESTS = 256, 4  # checked: the table's largest errors are rare
_CHECKED_PAIRS = 1 << 18  # candidate x behaviour, where that leaves the least number of requests


def export_ranker(
    trained: TrainedRanker,
    items: ItemTable,
    samples: Samples,
    space: Space,
    schema: FeatureSchema,
    item_ids: Sequence[str],
    directory: Path,
    *,
    report: Mapping[str, Any] | None = None,
    calibrated: CalibrationReport | None = None,
    int8: Int8Gate | None = None,
    overlay: Overlay | None = None,
) -> Bundle:
    """Write and seal a ranker bundle in `directory`, which is made and must be empty.

    items: the table as serving sees it, new items included; item_ids: (I,) in its order;
    report: offline metrics for the manifest, to which the parity of both graphs' logits with torch, the
    int8 gate's figures (`int8`), the calibration's (`calibration`) and the training log are added;
    calibrated: what the score does to the logit, None = the plain sigmoid; its curves go into the bundle.
    Golden outputs are the serving graph's own, without kernels. overlay: seal the rows that changed alone,
    as an overlay of a published table; None = all rows. The float weights go in too (training.weights).
    Raises BrokenBundle where ONNX Runtime and torch differ by more than the graphs' gates, or where int8 ID
    rows change the validation AUC by more than `int8` lets through.
    """
    if len(item_ids) != len(items) - 1:
        raise InvalidInput("item_ids", len(item_ids), f"must match {len(items) - 1} items")
    if (schema.history_length, schema.id_dim) != (
        trained.model.config.history_length,
        trained.model.config.id_dim,
    ):
        raise InvalidInput(
            "schema", schema.history_length, "has another history length or ID dim than the model"
        )
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InvalidInput("directory", str(directory), "must be empty")
    samples = samples.read_by(schema)
    gate, calibration = int8 or Int8Gate(), calibrated.calibration if calibrated else UNCALIBRATED
    int8_change = check_int8(trained, samples, items, gate)
    id_rows = trained.ids.rows()
    chosen = _example(samples, schema.history_length)
    checked = graph_inputs(samples, chosen, items, id_rows, schema.history_length)
    few = chosen[:: -(-len(chosen) // _GOLDEN_REQUESTS)]
    example = graph_inputs(samples, few, items, id_rows, schema.history_length)
    spec = RankerSpec(trained.model.config.to_dict(), space, schema, 0)
    letter = LiteralRanker(trained.model)
    write_graph(letter, directory / REFERENCE, calibration, explained=letter)
    literal = InChunks.fitting(OnnxModel(directory / REFERENCE), trained.model.config, example)
    reference_parity = check_parity(trained.model, literal, example, calibration=calibration)
    options = ServingOptions(calibration=calibration)
    parity = write_checked(trained.model, directory / spec.graph, checked, options)
    user_side_parity = write_user_side_checked(directory / spec.graph, directory, example)
    known = np.flatnonzero(trained.ids.known if overlay is None else trained.ids.known & overlay.changed)
    known_ids = [item_ids[row - 1] for row in known.tolist()]
    write_id_rows(directory / spec.id_rows, known_ids, id_rows[known])
    write_weights(directory / WEIGHTS, trained, item_ids)
    write_golden(directory, {GRAPH: (example, OnnxModel(directory / spec.graph).run(example))})
    facts = {
        **(report or {}),
        "parity": parity._asdict(),
        "reference_parity": reference_parity,
        "user_side_parity": user_side_parity,
        "int8": int8_change.to_json(gate),
        "training": trained.log,
    }
    if calibrated is not None:
        facts["calibration"] = calibrated.figures()
        (directory / f"{RELIABILITY}.json").write_text(json.dumps(calibrated.to_json()) + "\n")
        write_reliability(calibrated.test["all"], "Test split", directory / f"{RELIABILITY}.svg")
    spec = replace(
        spec,
        id_row_count=len(known),
        id_base=None if overlay is None else overlay.base,
        report=facts,
        calibration=calibration,
        weights=WEIGHTS,
    )
    return seal(directory, "ranker", spec.to_json())


def _example(samples: Samples, history_length: int) -> npt.NDArray[np.int64]:
    """A quarter with the longest histories, the last of them first; the others evenly from the whole log."""
    length = samples.ends - samples.starts
    longest = np.lexsort((-np.arange(len(length)), -length))
    pairs = samples.candidates.shape[1] * min(history_length, max(1, int(length.max(initial=1))))
    count = min(_MOST_REQUESTS, max(_LEAST_REQUESTS, _CHECKED_PAIRS // pairs))
    first = longest[: count // 4]
    others = np.setdiff1d(np.arange(len(length)), first)
    evenly = np.linspace(0, len(others) - 1, min(count - len(first), len(others))).round().astype(np.int64)
    return np.concatenate([first, others[evenly]]).astype(np.int64)
