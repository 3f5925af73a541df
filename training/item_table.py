"""The catalogue as rankers read it in training: the arrays that serving makes from the same bytes.

Content may have changed while the log was written. A table of versions holds every record that an item has
had, and `ItemTable.at` finds the one that a request's time saw:

    item 7   |--- (none) ---|--- version 1 ---|--- version 2 ---|--- deleted ---        since_ms ascending
    request              ^ row 0            ^ row of version 1            ^ a row without content
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.codec import ID_INT8, Rows, id_row_dtype, is_tombstone
from contracts.errors import InvalidInput, SpaceMismatch
from contracts.features import item_inputs
from contracts.schema import FeatureSchema
from contracts.space import Space

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
AsOf = Literal["time", "latest"]


@dataclass(frozen=True, eq=False)
class VersionIndex:
    """Which of V table rows an item had when. keys: (V,) int64 ascending, item * span + rank of its time."""

    items: npt.NDArray[np.int32]  # (V,) item numbers, ascending
    times: Integers  # (S,) distinct since_ms, ascending
    keys: Integers

    def rows(self, items: npt.NDArray[np.int32], times_ms: Integers) -> npt.NDArray[np.int32]:
        """items: (B, X) item numbers; times_ms: (B,) -> (B, X) table rows, 0 = the item had none then."""
        ranks = np.searchsorted(self.times, times_ms, side="right")
        wanted = items.astype(np.int64) * (len(self.times) + 1) + ranks[:, None]
        row = np.searchsorted(self.keys, wanted, side="right")  # version v is row v + 1
        seen = row > 0
        seen[seen] = self.items[row[seen] - 1] == items[seen]
        return np.where(seen, row, 0).astype(np.int32)


@dataclass(frozen=True, eq=False)
class ItemTable:
    """I items in catalogue order; item i has number i + 1, 0 is padding.

    Without an `index` the row of an item is its number, V = I; with one, rows are versions, row 0 is zero.

    codes: (V+1, D) int8; inv_norm: (V+1, M) float32; attributes: (V+1, A) int32;
    attribute_values: (V+1, A) float32;
    new: (I+1,) bool by number, items that never get an ID row, padding among them.
    """

    codes: npt.NDArray[np.int8]
    inv_norm: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.int32]
    attribute_values: npt.NDArray[np.float32]
    new: Mask
    index: VersionIndex | None = None

    def __len__(self) -> int:
        """I + 1."""
        return len(self.new)


@dataclass(frozen=True, eq=False)
class Versions:
    """Records of one space by catalogue row, then by time, tombstones included.

    records: (V,); items: (V,) int32 catalogue rows, ascending; since_ms: (V,) int64.
    """

    records: Rows
    items: npt.NDArray[np.int32]
    since_ms: Integers

    def latest(self, size: int) -> tuple[Rows, Mask]:
        """The last version of `size` items: records (I,), zero where there is none, found (I,) bool."""
        records = np.zeros(size, dtype=self.records.dtype)
        last = np.flatnonzero(np.diff(self.items, append=size))
        last = last[~is_tombstone(self.records[last])]
        found = np.zeros(size, dtype=bool)
        records[self.items[last]], found[self.items[last]] = self.records[last], True
        return records, found

    def among(self, kept: Mask) -> Versions:
        """Those of the items kept: (I,) bool."""
        inside = kept[self.items]
        return Versions(self.records[inside], self.items[inside], self.since_ms[inside])

    def until(self, end_ms: int) -> Versions:
        """Those that there were at a time."""
        inside = self.since_ms <= end_ms
        return Versions(self.records[inside], self.items[inside], self.since_ms[inside])

    def as_of(self, log_end_s: int) -> AsOf:
        """How to join them to a log that ends then: "latest" where no record is as old as that, else "time".

        A catalogue that was encoded after its log had no content at any time of it; what serving will read
        is then the only content there is.
        """
        return "time" if (self.since_ms <= log_end_s * 1000).any() else "latest"


def item_table(records: Rows, found: Mask, new: Mask, schema: FeatureSchema) -> ItemTable:
    """Records in catalogue order -> the table.

    records: (I,) of the space's dtype, zero where not found; found: (I,) bool; new: (I,) bool.
    """
    if not len(records) == len(found) == len(new):
        raise InvalidInput("records", len(records), f"must match found ({len(found)}) and new ({len(new)})")
    return _table(records, found, new, schema, None)


def version_table(versions: Versions, new: Mask, schema: FeatureSchema, as_of: AsOf) -> ItemTable:
    """Versions -> the table that a log is joined to.

    new: (I,) bool. as_of: "time": a sample reads what its items had at its own time, nothing before their
    first version; "latest": the last version, whenever it came.
    """
    if as_of not in ("time", "latest"):
        raise InvalidInput("as_of", as_of, "must be time or latest")
    if as_of == "latest":
        return item_table(*versions.latest(len(new)), new, schema)
    times, ranks = np.unique(versions.since_ms, return_inverse=True)
    items = versions.items + np.int32(1)
    keys = items.astype(np.int64) * (len(times) + 1) + ranks + 1
    if len(keys) and (not (np.diff(keys) >= 0).all() or items[-1] > len(new)):
        raise InvalidInput("versions", len(keys), f"must be sorted by item and time, of {len(new)} items")
    index = VersionIndex(items, times, keys)
    return _table(versions.records, np.ones(len(items), dtype=bool), new, schema, index)


def _table(
    records: Rows, found: Mask, new: Mask, schema: FeatureSchema, index: VersionIndex | None
) -> ItemTable:
    id_rows = np.zeros(len(records), dtype=id_row_dtype(ID_INT8, schema.id_dim))
    inputs = item_inputs(records, found, id_rows, np.zeros(len(records), dtype=bool), schema)
    return ItemTable(
        codes=inputs["codes"],
        inv_norm=inputs["inv_norm"],
        attributes=inputs["attributes"],
        attribute_values=inputs["attribute_values"],
        new=np.concatenate([np.ones(1, dtype=bool), new]),
        index=index,
    )


def align_records(
    catalogue_ids: Sequence[str], item_ids: Sequence[str], records: Rows, space: Space
) -> tuple[Rows, Mask]:
    """An offline table's rows (K,) -> catalogue order: records (I,), zero where not found, found (I,) bool.

    Rows of items that the catalogue lacks are left out.
    """
    place = _places(catalogue_ids, item_ids, records, space)
    out = np.zeros(len(catalogue_ids), dtype=space.dtype)
    found = np.zeros(len(catalogue_ids), dtype=bool)
    out[place[place >= 0]] = records[place >= 0]
    found[place[place >= 0]] = True
    return out, found


def align_versions(
    catalogue_ids: Sequence[str], item_ids: Sequence[str], records: Rows, since_ms: Integers, space: Space
) -> Versions:
    """`OfflineTable.read_versions` by catalogue row; items that the catalogue lacks are left out."""
    place = _places(catalogue_ids, item_ids, records, space)
    order = np.lexsort((since_ms, place))  # stable: versions of one millisecond keep their order
    order = order[place[order] >= 0]
    return Versions(records[order], place[order].astype(np.int32), since_ms[order])


def _places(catalogue_ids: Sequence[str], item_ids: Sequence[str], records: Rows, space: Space) -> Integers:
    """Catalogue row of each id, -1 where it has none."""
    if records.dtype != space.dtype:
        raise SpaceMismatch(str(space.dtype), str(records.dtype), "offline table")
    row_of = {item_id: row for row, item_id in enumerate(catalogue_ids)}
    return np.fromiter((row_of.get(i, -1) for i in item_ids), dtype=np.int64, count=len(item_ids))
