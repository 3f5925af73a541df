"""The catalogue as rankers read it in training: the arrays that serving makes from the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.codec import ID_INT8, Rows, id_row_dtype
from contracts.errors import InvalidInput, SpaceMismatch
from contracts.features import FeatureSchema, item_inputs
from contracts.space import Space

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ItemTable:
    """I items in catalogue order behind the zero padding row: catalogue row i is row i + 1.

    codes: (I+1, D) int8; inv_norm: (I+1, M) float32; attributes: (I+1, A) int32;
    new: (I+1,) bool, items that never get an ID row, the padding row among them.
    """

    codes: npt.NDArray[np.int8]
    inv_norm: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.int32]
    new: Mask

    def __len__(self) -> int:
        """I + 1."""
        return len(self.codes)


def item_table(records: Rows, found: Mask, new: Mask, schema: FeatureSchema) -> ItemTable:
    """Records in catalogue order -> the table.

    records: (I,) of the space's dtype, zero where not found; found: (I,) bool; new: (I,) bool.
    """
    if not len(records) == len(found) == len(new):
        raise InvalidInput("records", len(records), f"must match found ({len(found)}) and new ({len(new)})")
    id_rows = np.zeros(len(records), dtype=id_row_dtype(ID_INT8, schema.id_dim))
    inputs = item_inputs(records, found, id_rows, np.zeros(len(records), dtype=bool), schema)
    return ItemTable(
        codes=inputs["codes"],
        inv_norm=inputs["inv_norm"],
        attributes=inputs["attributes"],
        new=np.concatenate([np.ones(1, dtype=bool), new]),
    )


def align_records(
    catalogue_ids: Sequence[str], item_ids: Sequence[str], records: Rows, space: Space
) -> tuple[Rows, Mask]:
    """An offline table's rows (K,) -> catalogue order: records (I,), zero where not found, found (I,) bool.

    Rows of items that the catalogue lacks are left out.
    """
    if records.dtype != space.dtype:
        raise SpaceMismatch(str(space.dtype), str(records.dtype), "offline table")
    row_of = {item_id: row for row, item_id in enumerate(catalogue_ids)}
    place = np.fromiter((row_of.get(i, -1) for i in item_ids), dtype=np.int64, count=len(item_ids))
    out = np.zeros(len(catalogue_ids), dtype=space.dtype)
    found = np.zeros(len(catalogue_ids), dtype=bool)
    out[place[place >= 0]] = records[place >= 0]
    found[place[place >= 0]] = True
    return out, found
