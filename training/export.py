"""From a trained ranker to a sealed bundle: graphs, ID rows, golden outputs, how to read features, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import Bundle, seal, write_golden
from contracts.codec import Rows, encode_id_rows
from contracts.errors import InvalidInput
from contracts.features import FeatureSchema
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import RankerSpec
from contracts.space import Space
from param_server.id_rows import write_id_rows
from training.data.interactions import TRAIN
from training.data.samples import Samples
from training.evaluation import IdVectors
from training.graph import check_parity, graph_inputs, write_graph
from training.item_table import ItemTable
from training.loop import TrainedRanker
from training.serving_graph.write import write_checked

GRAPH = "ranker"  # name of the graph in golden.npz
REFERENCE = "reference.onnx"  # the module as torch exports it: served by nobody, kept for comparisons
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
) -> Bundle:
    """Write and seal a ranker bundle in `directory`, which is made and must be empty.

    items: the table as serving sees it, new items included; item_ids: (I,) in its order;
    report: offline metrics for the manifest, to which the parity of both graphs' logits with torch and the
    training log are added. Golden outputs are the serving graph's own, without kernels.
    Raises BrokenBundle where ONNX Runtime and torch differ by more than the graphs' gates.
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
    id_rows = id_row_table(trained.ids, positive_counts(samples, len(items)))
    chosen = _example(samples, schema.history_length)
    checked = graph_inputs(samples, chosen, items, id_rows, schema.history_length)
    few = chosen[:: -(-len(chosen) // _GOLDEN_REQUESTS)]
    example = graph_inputs(samples, few, items, id_rows, schema.history_length)
    spec = RankerSpec(trained.model.config.to_dict(), space, schema, int(trained.ids.known.sum()))
    write_graph(trained.model, directory / REFERENCE)
    reference_parity = check_parity(trained.model, OnnxModel(directory / REFERENCE), example)
    parity = write_checked(trained.model, directory / spec.graph, checked)
    known = np.flatnonzero(trained.ids.known)
    known_ids = [item_ids[row - 1] for row in known.tolist()]
    write_id_rows(directory / spec.id_rows, known_ids, id_rows[known])
    write_golden(directory, {GRAPH: (example, OnnxModel(directory / spec.graph).run(example))})
    facts = {
        **(report or {}),
        "parity": parity._asdict(),
        "reference_parity": reference_parity,
        "training": trained.log,
    }
    spec = RankerSpec(spec.model, space, schema, spec.id_row_count, report=facts)
    return seal(directory, "ranker", spec.to_json())


def positive_counts(samples: Samples, size: int) -> npt.NDArray[np.int64]:
    """How often each item was the positive candidate of a train sample: (size,) int64, size = I + 1."""
    inside = (samples.splits == TRAIN)[:, None] & samples.candidate_mask & (samples.labels == 1)
    return np.bincount(samples.candidates[inside], minlength=size)


def id_row_table(ids: IdVectors, counts: npt.NDArray[np.int64]) -> Rows:
    """(I+1,) int8 ID rows with their evidence; all zero, version 0, where the item has none."""
    rows = encode_id_rows(ids.vectors, np.log1p(counts).astype(np.float32))
    rows[~ids.known] = np.zeros((), dtype=rows.dtype)
    return rows


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
