"""The log of a dataset: interactions.parquet, checked and in time order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.catalogue import Catalogue
from training.data.progress import Progress, silent
from training.data.table import Table, as_text, is_text, read_table

TRAIN, VAL, TEST = 0, 1, 2
SPLITS = ("train", "val", "test")
CUTS = (0.8, 0.9)  # shares of the rows before val and before test, where no split is given
_COLUMNS = ("user_id", "item_id", "timestamp", "label", "request_id", "split")

Order = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Interactions:
    """R impressions sorted by time, rows of one second in the file's order."""

    users: npt.NDArray[np.int32]  # (R,) index into user_ids
    user_ids: list[str]
    items: npt.NDArray[np.int32]  # (R,) catalogue row
    timestamps: npt.NDArray[np.int64]  # (R,) seconds
    labels: npt.NDArray[np.int8]  # (R,) 0 or 1
    requests: npt.NDArray[np.int64]  # (R,) 0, 1, … by the time of a request's first row
    splits: npt.NDArray[np.int8]  # (R,) TRAIN, VAL or TEST

    def __len__(self) -> int:
        return len(self.users)


def load_interactions(directory: Path, catalogue: Catalogue, progress: Progress = silent) -> Interactions:
    """interactions.parquet of `directory`. InvalidInput names file, column and row (the file's order)."""
    log = read_table(directory / "interactions.parquet", _COLUMNS)
    for column in ("user_id", "item_id", "timestamp", "label"):
        log.column(column)
    if not log.rows:
        raise InvalidInput(log.name, 0, "has no rows")
    progress(1, 4)
    timestamps = log.seconds("timestamp")
    order = np.argsort(timestamps, kind="stable")
    timestamps = timestamps[order]
    users, user_ids = log.codes("user_id")
    users = users[order]
    items = catalogue_rows(log, "item_id", catalogue)[order]
    labels = _labels(log)[order]
    progress(2, 4)
    requests = _requests(log, order, users, timestamps)
    progress(3, 4)
    splits = _splits(log, order, requests, timestamps)
    _check_splits(log.name, splits, labels)
    progress(4, 4)
    return Interactions(
        users=users.astype(np.int32),
        user_ids=user_ids,
        items=items,
        timestamps=timestamps,
        labels=labels,
        requests=requests,
        splits=splits,
    )


def catalogue_rows(table: Table, column: str, catalogue: Catalogue) -> npt.NDArray[np.int32]:
    """A column of item ids -> (R,) int32 catalogue rows; an id that items.parquet lacks is refused."""
    codes, ids = table.codes(column)
    rows = np.array([catalogue.row_of.get(i, -1) for i in ids], dtype=np.int32)[codes]
    table.refuse(column, rows < 0, "is not in items.parquet")
    return rows


def _labels(log: Table) -> npt.NDArray[np.int8]:
    log.refuse_nulls("label")
    values = log.floats("label")
    log.refuse("label", (values != 0) & (values != 1), "must be 0 or 1")
    return values.astype(np.int8)


def _requests(
    log: Table, order: Order, users: npt.NDArray[np.int64], timestamps: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Request numbers of the sorted rows; without request_id, the rows of a user's second are a request."""
    if "request_id" not in log.columns:
        ticks = np.cumsum(np.diff(timestamps, prepend=timestamps[:1]) != 0)
        return first_seen(ticks * (int(users.max()) + 1) + users)
    requests = first_seen(log.codes("request_id")[0][order])
    _refuse_mixed(log, order, requests, users, "user_id")
    return requests


def _splits(
    log: Table, order: Order, requests: npt.NDArray[np.int64], timestamps: npt.NDArray[np.int64]
) -> npt.NDArray[np.int8]:
    """Splits of the sorted rows, as given or cut by time. A request lies in one split."""
    if "split" not in log.columns:
        # rows are sorted, so a request's first row is its earliest
        begins = _firsts(requests, timestamps)[requests]
        cuts = np.sort(begins)[[int(share * len(begins)) for share in CUTS]]
        return np.searchsorted(cuts, begins, side="right").astype(np.int8)
    log.refuse_nulls("split")
    if not is_text(log.columns["split"].type):
        raise log.wrong_type("split", "strings")
    encoded = as_text(log.columns["split"]).dictionary_encode()
    numbers = {name: number for number, name in enumerate(SPLITS)}
    named = np.array([numbers.get(name, -1) for name in encoded.dictionary.to_pylist()], dtype=np.int8)
    splits: npt.NDArray[np.int8] = named[encoded.indices.to_numpy(zero_copy_only=False)]
    log.refuse("split", splits < 0, "must be train, val or test")
    splits = splits[order]
    _refuse_mixed(log, order, requests, splits, "split")
    return splits


def first_seen(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Keys -> 0, 1, … in the order in which they first appear."""
    _, first, codes = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[codes]


def _firsts(requests: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The value in the first row of each request."""
    out = np.empty(int(requests.max()) + 1, dtype=values.dtype)
    out[requests[::-1]] = values[::-1]  # of repeated indices the last assignment stays
    return out


def _refuse_mixed(
    log: Table, order: Order, requests: npt.NDArray[np.int64], values: npt.NDArray[Any], column: str
) -> None:
    mixed = np.zeros(log.rows, dtype=bool)
    mixed[order] = _firsts(requests, values)[requests] != values
    log.refuse(column, mixed, "differs from other rows of its request_id")


def _check_splits(file: str, splits: npt.NDArray[np.int8], labels: npt.NDArray[np.int8]) -> None:
    """Every split needs both classes, else nothing can be learned from it or measured on it."""
    for number, name in enumerate(SPLITS):
        inside = labels[splits == number]
        if not inside.any():
            raise InvalidInput(f"{file}: split '{name}'", len(inside), "has no row with label 1")
        if inside.all():
            raise InvalidInput(f"{file}: split '{name}'", len(inside), "has no row with label 0")
