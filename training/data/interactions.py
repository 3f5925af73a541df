"""The log of a dataset: interactions.parquet, checked and in time order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from contracts.schema import Encoding
from training.data.catalogue import Catalogue
from training.data.context import RequestColumns, readable, refuse_giveaways, request_columns
from training.data.progress import Progress, silent
from training.data.queries import QUERIES, Queries
from training.data.table import Table, as_text, is_text, mask, read_table

TRAIN, VAL, TEST = 0, 1, 2
SPLITS = ("train", "val", "test")
CUTS = (0.8, 0.9)  # shares of the rows before val and before test, where no split is given
_NEEDED = ("user_id", "item_id", "timestamp", "label")
_COLUMNS = (*_NEEDED, "request_id", "split", "query_id", "ts_imputed")

UnknownItems = Literal["refuse", "exclude"]
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
    context: RequestColumns | None = None  # by request
    queries: npt.NDArray[np.int64] | None = None  # (Q,) by request, row of queries.parquet, -1 = none
    imputed: npt.NDArray[np.bool_] | None = None  # (R,) rows whose time was drawn, not seen
    report: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)


def load_interactions(
    directory: Path,
    catalogue: Catalogue,
    progress: Progress = silent,
    *,
    queries: Queries | None = None,
    context_columns: Sequence[str] | None = None,
    encodings: Mapping[str, Encoding] | None = None,
    unknown_items: UnknownItems = "refuse",
) -> Interactions:
    """interactions.parquet of `directory`. InvalidInput names file, column and row (the file's order).

    context_columns: further columns that are said of requests, None to infer them; encodings: by name;
    unknown_items: "exclude" leaves out rows of items that items.parquet lacks, and counts them.
    """
    if unknown_items not in ("refuse", "exclude"):
        raise InvalidInput("unknown_items", unknown_items, "must be refuse or exclude")
    path = directory / "interactions.parquet"
    log = read_table(path, readable(path, _COLUMNS, context_columns))
    for column in _NEEDED:
        log.column(column)
    if not log.rows:
        raise InvalidInput(log.name, 0, "has no rows")
    progress(1, 4)
    timestamps = log.seconds("timestamp")
    users, user_ids = log.codes("user_id")
    items = catalogue_rows(log, "item_id", catalogue, unknown_items)
    labels = _labels(log)
    order = np.argsort(timestamps, kind="stable")
    order = order[items[order] >= 0]
    if not len(order):
        raise InvalidInput(f"{log.name}: column 'item_id'", log.rows, "names no item of items.parquet")
    users, labels = users[order], labels[order]
    progress(2, 4)
    given = _given_splits(log, order)
    requests = _requests(log, order, users, timestamps[order], given)
    progress(3, 4)
    splits = _cut(requests, timestamps[order]) if given is None else given
    _check_splits(log.name, splits, labels)
    context = request_columns(log, requests, order, context_columns, encodings or {}, _COLUMNS)
    if context is not None:
        inside = splits == TRAIN
        refuse_giveaways(log.name, context, requests[inside], labels[inside])
    progress(4, 4)
    return Interactions(
        users=users.astype(np.int32),
        user_ids=user_ids,
        items=items[order],
        timestamps=timestamps[order],
        labels=labels,
        requests=requests,
        splits=splits,
        context=context,
        queries=_queries(log, order, requests, queries),
        imputed=_imputed(log, order, labels),
        report={
            "file_rows": log.rows,
            "rows": len(order),
            "excluded_unknown_item": log.rows - len(order),
            "rows_out_of_time_order": int((np.diff(timestamps) < 0).sum()),
        },
    )


def catalogue_rows(
    table: Table, column: str, catalogue: Catalogue, unknown: UnknownItems = "refuse"
) -> npt.NDArray[np.int32]:
    """A column of item ids -> (R,) int32 catalogue rows; one that items.parquet lacks is refused, or -1."""
    codes, ids = table.codes(column)
    rows = np.array([catalogue.row_of.get(i, -1) for i in ids], dtype=np.int32)[codes]
    if unknown == "refuse":
        table.refuse(column, rows < 0, "is not in items.parquet")
    return rows


def _labels(log: Table) -> npt.NDArray[np.int8]:
    log.refuse_nulls("label")
    values = log.floats("label")
    log.refuse("label", (values != 0) & (values != 1), "must be 0 or 1")
    return values.astype(np.int8)


def _requests(
    log: Table,
    order: Order,
    users: npt.NDArray[np.int64],
    timestamps: npt.NDArray[np.int64],
    splits: npt.NDArray[np.int8] | None,
) -> npt.NDArray[np.int64]:
    """Request numbers of the sorted rows; without request_id, a user's rows of one second and split."""
    if "request_id" not in log.columns:
        ticks = np.cumsum(np.diff(timestamps, prepend=timestamps[:1]) != 0)
        keys = ticks * (int(users.max()) + 1) + users
        return first_seen(keys if splits is None else keys * len(SPLITS) + splits)
    requests = first_seen(log.codes("request_id")[0][order])
    _refuse_mixed(log, order, requests, users, "user_id")
    if splits is not None:
        _refuse_mixed(log, order, requests, splits, "split")
    return requests


def _cut(requests: npt.NDArray[np.int64], timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
    """Splits of the sorted rows, cut by time. A request lies in one split."""
    # rows are sorted, so a request's first row is its earliest
    begins = _firsts(requests, timestamps)[requests]
    cuts = np.sort(begins)[[int(share * len(begins)) for share in CUTS]]
    return np.searchsorted(cuts, begins, side="right").astype(np.int8)


def _given_splits(log: Table, order: Order) -> npt.NDArray[np.int8] | None:
    """Splits of the sorted rows as the file has them, None where it has none."""
    if "split" not in log.columns:
        return None
    log.refuse_nulls("split")
    if not is_text(log.columns["split"].type):
        raise log.wrong_type("split", "strings")
    encoded = as_text(log.columns["split"]).dictionary_encode()
    numbers = {name: number for number, name in enumerate(SPLITS)}
    named = np.array([numbers.get(name, -1) for name in encoded.dictionary.to_pylist()], dtype=np.int8)
    splits: npt.NDArray[np.int8] = named[encoded.indices.to_numpy(zero_copy_only=False)]
    log.refuse("split", splits < 0, "must be train, val or test")
    return splits[order]


def _queries(
    log: Table, order: Order, requests: npt.NDArray[np.int64], queries: Queries | None
) -> npt.NDArray[np.int64] | None:
    """Row of queries.parquet by request (Q,), -1 where it has none; None without both files' columns."""
    if queries is None or "query_id" not in log.columns:
        return None
    given = mask(log.columns["query_id"].is_valid())
    values = as_text(log.columns["query_id"]) if given.any() else None
    encoded = values.dictionary_encode() if values is not None else None
    rows = np.full(log.rows, -1, dtype=np.int64)
    if encoded is not None:
        known = np.array([queries.row_of.get(q, -1) for q in encoded.dictionary.to_pylist()], dtype=np.int64)
        codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.where(given, known[codes], -1)
    log.refuse("query_id", given & (rows < 0), f"is not in {QUERIES}")
    rows = rows[order]
    _refuse_mixed(log, order, requests, rows, "query_id")
    return _firsts(requests, rows)


def _imputed(log: Table, order: Order, labels: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_] | None:
    """Which rows' times were drawn, not seen. A liked row's may not: histories are made of them."""
    if "ts_imputed" not in log.columns:
        return None
    log.refuse_nulls("ts_imputed")
    drawn = log.floats("ts_imputed") != 0
    liked = np.zeros(log.rows, dtype=bool)
    liked[order] = labels == 1
    log.refuse("ts_imputed", drawn & liked, "must be false where label is 1: histories are made of these")
    return drawn[order] if drawn[order].any() else None


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
