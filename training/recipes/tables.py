"""What the offline table gives to a training run, as it is now or as of each sample's time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.schema import FeatureSchema
from training.data.interactions import TRAIN
from training.data.samples import Samples
from training.item_table import AsOf, ItemTable, Versions, item_table, version_table


@dataclass(frozen=True, eq=False)
class TableView:
    """Records of one space in catalogue order. records: (I,), zero where not found; found: (I,) bool."""

    records: Rows
    found: npt.NDArray[np.bool_]


def ranker_items(
    table: TableView | Versions,
    samples: Samples,
    shown: npt.NDArray[np.bool_],
    new: npt.NDArray[np.bool_],
    schema: FeatureSchema,
    as_of: AsOf | None,
) -> ItemTable:
    """What training or the test reads of a table. shown: (I,) bool, the items whose content is not hidden."""
    if isinstance(table, Versions):
        return version_table(table.among(shown), new, schema, as_of or _as_of(table, samples))
    return item_table(table.records, table.found & shown, new, schema)


def seen_records(
    table: TableView | Versions, samples: Samples, new: npt.NDArray[np.bool_], as_of: AsOf | None
) -> Rows:
    """The records that the train split can show, new items' left out."""
    if not isinstance(table, Versions):
        return table.records[table.found & ~new]
    shown = table.among(~new)
    if (as_of or _as_of(table, samples)) == "time":
        end_ms = int(samples.timestamps[samples.splits == TRAIN].max()) * 1000
        shown = shown.until(end_ms)
    records, found = shown.latest(len(new))
    return records[found]


def _as_of(table: Versions, samples: Samples) -> AsOf:
    return table.as_of(int(samples.timestamps.max()))
