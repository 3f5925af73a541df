"""Interest pairs that the user of a dataset brings: interest_pairs.parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.catalogue import Catalogue
from training.data.interactions import catalogue_rows
from training.data.pictures import NoPictures, Pictures, column_pictures
from training.data.table import Table, mask, read_table

QUERY_ITEM = "query_item_id"
QUERY_IMAGE = "query_image"


@dataclass(frozen=True, eq=False)
class InterestPairs:
    """P pairs in the file's order: what was sought, and the item that was chosen for it."""

    queries: npt.NDArray[np.int32]  # (P,) catalogue row, -1 where the query is a picture alone
    query_pictures: Pictures  # by pair
    items: npt.NDArray[np.int32]  # (P,) catalogue row

    def __len__(self) -> int:
        return len(self.items)


def load_interest_pairs(directory: Path, catalogue: Catalogue) -> InterestPairs | None:
    """interest_pairs.parquet of `directory`, None where there is none. InvalidInput names the cell."""
    path = directory / "interest_pairs.parquet"
    if not path.exists():
        return None
    table = read_table(path)
    if not table.rows:
        raise InvalidInput(table.name, 0, "has no rows")
    has_item, has_image = QUERY_ITEM in table.columns, QUERY_IMAGE in table.columns
    if not has_item and not has_image:
        raise InvalidInput(
            table.name, sorted(table.columns), f"must have a column '{QUERY_ITEM}' or '{QUERY_IMAGE}'"
        )
    items = catalogue_rows(table, "item_id", catalogue)
    pictures = column_pictures(path, QUERY_IMAGE) if has_image else NoPictures()
    if not has_item:
        table.refuse_nulls(QUERY_IMAGE)
        return InterestPairs(np.full(table.rows, -1, dtype=np.int32), pictures, items)
    if not has_image:
        return InterestPairs(catalogue_rows(table, QUERY_ITEM, catalogue), pictures, items)
    return InterestPairs(_queries_or_pictures(table, catalogue), pictures, items)


def _queries_or_pictures(table: Table, catalogue: Catalogue) -> npt.NDArray[np.int32]:
    """Catalogue rows of the queries, -1 where null; such a row must bring a picture."""
    given = mask(table.columns[QUERY_ITEM].is_valid())
    pictured = mask(table.columns[QUERY_IMAGE].is_valid())
    table.refuse(QUERY_ITEM, ~given & ~pictured, f"must not be null where {QUERY_IMAGE} is")
    rows = np.full(table.rows, -1, dtype=np.int32)
    filled = table.columns[QUERY_ITEM].fill_null(table.columns["item_id"][0])
    known = Table(table.name, {QUERY_ITEM: filled}, table.rows)
    rows[given] = catalogue_rows(known, QUERY_ITEM, catalogue)[given]
    return rows
