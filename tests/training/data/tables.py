"""Small data directories for the tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.items import AttributeField
from training.data.catalogue import Catalogue
from training.data.dataset import Dataset
from training.data.interactions import Interactions
from training.data.pictures import NoPictures

Columns = dict[str, Any]


def items_columns(count: int = 6) -> Columns:
    """Items i0, i1, … with a title each."""
    return {"item_id": [f"i{k}" for k in range(count)], "title": [f"Title {k}" for k in range(count)]}


def log_columns(rows: int = 60) -> Columns:
    """Two users in turn over six items, a row a second, every second row liked."""
    return {
        "user_id": [f"u{k % 2}" for k in range(rows)],
        "item_id": [f"i{k % 6}" for k in range(rows)],
        "timestamp": [100 + k for k in range(rows)],
        "label": [(k // 2) % 2 for k in range(rows)],
    }


def write(directory: Path, items: Columns | None = None, log: Columns | None = None) -> Path:
    """Write both files, the plain ones where not given."""
    pq.write_table(pa.table(items if items is not None else items_columns()), directory / "items.parquet")
    pq.write_table(pa.table(log if log is not None else log_columns()), directory / "interactions.parquet")
    return directory


def dataset(rows: list[tuple[int, int, int, int, int, int]], items: int, users: int) -> Dataset:
    """A dataset in memory. rows: (user, item row, timestamp, label, request, split), sorted by time."""
    names = [str(k) for k in range(items)]
    fields: tuple[AttributeField, ...] = ()
    catalogue = Catalogue(names, {n: k for k, n in enumerate(names)}, names, (), fields, NoPictures(), {})
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    log = Interactions(
        users=table[:, 0].astype(np.int32),
        user_ids=[str(k) for k in range(users)],
        items=table[:, 1].astype(np.int32),
        timestamps=table[:, 2],
        labels=table[:, 3].astype(np.int8),
        requests=table[:, 4],
        splits=table[:, 5].astype(np.int8),
    )
    return Dataset(catalogue, log)
