"""Train a published ranker on, on what has come since: one more day of the log, not the whole of it.

It starts from the dense weights and the ID vectors of a sealed bundle, reads features by that bundle's schema
(vocabularies stay) and gives a new immutable version of its ID table: all rows, or the changed ones as an
overlay of the full table below. The base is only read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.bundle import Bundle
from contracts.errors import Conflict, InvalidInput
from contracts.ranker_spec import RankerSpec, ranker_spec_from_json
from contracts.space import Space, same_space
from param_server.id_rows import read_id_rows
from training.data.interactions import TEST, TRAIN, VAL
from training.data.samples import Samples
from training.distributed import ALONE, Ranks
from training.evaluation import IdVectors
from training.item_table import AsOf, ItemTable, Versions
from training.loop import OnStep, TrainedRanker, TrainingConfig, quiet, train_ranker
from training.models.config import RankerConfig
from training.models.ranker import Ranker
from training.recipes.tables import TableView, ranker_items
from training.weights import Overlay, Weights, read_weights

EARLIER = -1  # the split of samples before the new day: they train nothing and are measured nowhere
_VALIDATION = 0.1


@dataclass(frozen=True, eq=False)
class Base:
    """What to train on from. table: the full ID table below; overlaid: ids that the bundle's own overlay of
    it holds, none where the bundle's table is full."""

    spec: RankerSpec
    weights: Weights
    table: str
    overlaid: frozenset[str]


@dataclass(frozen=True, eq=False)
class IncrementalRun:
    """What export_ranker takes: with `overlay` it seals the changed rows, without it all.

    item_ids: (I,), the catalogue's, then the base's items that it lacks; samples: with the splits of the day.
    """

    trained: TrainedRanker
    samples: Samples
    items: ItemTable
    item_ids: list[str]
    overlay: Overlay


def open_base(bundle: Bundle, table: str) -> Base:
    """A ranker bundle and the name of the full ID table: its own, or the one that it is an overlay of.

    Conflict where the bundle is no ranker, has no weights, or is an overlay of another table.
    """
    if bundle.manifest.kind != "ranker":
        raise Conflict(f"bundle {bundle.digest[:12]} is of kind {bundle.manifest.kind}, not ranker")
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    if spec.weights is None:
        raise Conflict(f"bundle {bundle.digest[:12]} has no weights to train on from")
    if spec.id_base not in (None, table):
        raise Conflict(f"bundle {bundle.digest[:12]} is an overlay of {spec.id_base!r}, not of {table!r}")
    overlaid: list[str] = []
    if spec.id_base is not None:
        overlaid, _ = read_id_rows(bundle.file(spec.id_rows), spec.id_codec, spec.schema.id_dim)
    return Base(spec, read_weights(bundle.file(spec.weights)), table, frozenset(overlaid))


def since(samples: Samples, begin_s: int, validation: float = _VALIDATION) -> Samples:
    """The samples as one day trains on them: requests from `begin_s` (seconds) on.

    What the log marks as test stays test; of the day's others the last `validation` share, by time, is val.
    Earlier likes stay in histories. InvalidInput where the day has too few requests for both.
    """
    if not 0 < validation < 1:
        raise InvalidInput("validation", validation, "must lie between 0 and 1")
    inside = samples.timestamps >= begin_s
    day = np.flatnonzero(inside & (samples.splits != TEST))
    day = day[np.argsort(samples.timestamps[day], kind="stable")]
    cut = min(len(day) - 1, round((1 - validation) * len(day)))
    if cut < 1:
        raise InvalidInput("begin_s", begin_s, f"leaves {len(day)} requests to train on and to validate on")
    splits = np.where(inside, samples.splits, EARLIER).astype(samples.splits.dtype)
    splits[day[:cut]] = TRAIN
    splits[day[cut:]] = VAL
    return dataclasses.replace(samples, splits=splits)


def train_incrementally(
    base: Base,
    samples: Samples,
    space: Space,
    table: TableView | Versions,
    serving_table: TableView | Versions,
    new: npt.NDArray[np.bool_],
    item_ids: Sequence[str],
    config: TrainingConfig,
    *,
    as_of: AsOf | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep = quiet,
    ranks: Ranks = ALONE,
) -> IncrementalRun:
    """Train on the train split of `samples` (see `since`), from the base's weights and ID vectors.

    table, serving_table: as in train_rankers; new: (I,) bool, items that get no ID row; item_ids: (I,), the
    catalogue's. Items that the base does not know get fresh rows; those that only the base knows keep theirs.
    Raises SpaceMismatch where the base is of another space, and what train_ranker raises.
    """
    spec = base.spec
    same_space(spec.space.id, space.id, "base of an incremental run")
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    extra = [item_id for item_id in base.weights.item_ids if item_id not in row_of]
    row_of |= {item_id: len(item_ids) + n for n, item_id in enumerate(extra)}
    new = np.concatenate([new, np.zeros(len(extra), dtype=bool)])
    samples = samples.read_by(spec.schema)
    training_items = ranker_items(_wider(table, len(new)), samples, ~new, new, spec.schema, as_of)
    everything = np.ones_like(new)
    items = ranker_items(_wider(serving_table, len(new)), samples, everything, new, spec.schema, as_of)
    start = _start(base.weights, row_of)
    model = Ranker(RankerConfig.from_dict(dict(spec.model)))
    model.load_state_dict(base.weights.model)
    trained = train_ranker(
        model,
        samples,
        training_items,
        config,
        checkpoint=checkpoint,
        on_step=on_step,
        ranks=ranks,
        start=start,
    )
    changed = (_bytes(trained.ids) != _bytes(start)).any(1)
    for item_id in base.overlaid:
        changed[row_of[item_id] + 1] = True
    every_id = [*item_ids, *extra]
    return IncrementalRun(trained, samples, items, every_id, Overlay(base.table, changed))


def _start(weights: Weights, row_of: dict[str, int]) -> IdVectors:
    """The base's ID table by row of this run's: (I+1, d), unknown where the base has no row."""
    place = np.fromiter((row_of[i] + 1 for i in weights.item_ids), np.int64, len(weights.item_ids))
    vectors = np.zeros((len(row_of) + 1, weights.vectors.shape[1]), dtype=np.float32)
    known = np.zeros(len(vectors), dtype=bool)
    evidence = np.zeros(len(vectors), dtype=np.float32)
    vectors[place], known[place], evidence[place] = weights.vectors, True, weights.evidence
    return IdVectors(vectors, known, evidence)


def _bytes(ids: IdVectors) -> npt.NDArray[np.uint8]:
    """The stored ID rows, byte by byte: (I+1, size)."""
    rows = ids.rows()
    return np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), rows.dtype.itemsize)


def _wider(table: TableView | Versions, size: int) -> TableView | Versions:
    """The table with items at the end that have no content."""
    if isinstance(table, Versions):
        return table
    more = size - len(table.records)
    records = np.concatenate([table.records, np.zeros(more, dtype=table.records.dtype)])
    return TableView(records, np.concatenate([table.found, np.zeros(more, dtype=bool)]))
