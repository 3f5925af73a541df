"""Events from a file, as the join with the score log reads them: Parquet, or a JSON object per line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InvalidInput
from contracts.events import MAX_TIMESTAMP_MS
from contracts.items import check_item_id
from training.data.progress import Progress, silent
from training.data.table import Array, Table, as_text, is_text, mask, read_table

_COLUMNS = ("user_id", "item_id", "timestamp_ms", "timestamp", "request_id", "kind")
_LINES = 100_000

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class EventTable:
    """E events. kinds, request_ids: null where an event has none."""

    user_ids: Array  # (E,) large_string
    item_ids: Array  # (E,) large_string
    times: npt.NDArray[np.int64]  # (E,) ms
    request_ids: Array  # (E,) large_string
    kinds: Array  # (E,) large_string

    def __len__(self) -> int:
        return len(self.times)

    @property
    def has_request(self) -> Mask:
        """(E,) whether an event names the request that showed its item."""
        return mask(self.request_ids.is_valid())

    def of_kind(self, kind: str | None) -> Mask:
        """(E,) events of one kind; None: those without."""
        if kind is None:
            return mask(self.kinds.is_null())
        return mask(pc.fill_null(pc.equal(self.kinds, pa.scalar(kind, pa.large_string())), False))

    def positives(self, kinds: tuple[str, ...], shown_kind: str | None) -> Mask:
        """(E,) events that make a label 1: those of `kinds`, or, without any, all but those of shown_kind."""
        if kinds:
            of_kinds: Mask = np.logical_or.reduce([self.of_kind(kind) for kind in kinds])
            return of_kinds
        return np.ones(len(self), dtype=bool) if shown_kind is None else ~self.of_kind(shown_kind)


def read_events(path: Path, progress: Progress = silent) -> EventTable:
    """user_id, item_id, timestamp_ms (or timestamp: seconds, or of a Parquet type), request_id, kind.

    The last two may be absent. Lines are those that `repcenter events push` takes, and `request_id` beside.
    Raises InvalidInput that names file, column or line.
    """
    if not path.is_file():
        raise InvalidInput("events", str(path), "is not a file")
    if path.suffix == ".parquet":
        table = read_table(path, _COLUMNS)
        progress(1, 1)
    else:
        table = _lines(path, progress)
    return EventTable(
        as_text(table.ids("user_id")),
        as_text(table.ids("item_id")),
        _times(table),
        _optional(table, "request_id"),
        _optional(table, "kind"),
    )


def _times(table: Table) -> npt.NDArray[np.int64]:
    if "timestamp_ms" not in table.columns:
        values = table.column("timestamp")
        if pa.types.is_timestamp(values.type):
            table.refuse_nulls("timestamp")
            out: npt.NDArray[np.int64] = (
                values.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False)
            )
            return out
        return table.seconds("timestamp") * 1000
    values = table.column("timestamp_ms")
    if not pa.types.is_integer(values.type):
        raise table.wrong_type("timestamp_ms", "integers")
    table.refuse_nulls("timestamp_ms")
    given = values.to_numpy(zero_copy_only=False)
    table.refuse("timestamp_ms", (given < 0) | (given > MAX_TIMESTAMP_MS), "must be 0 to 2^53-1")
    times: npt.NDArray[np.int64] = given.astype(np.int64)
    return times


def _optional(table: Table, name: str) -> Array:
    if name not in table.columns or pa.types.is_null(table.columns[name].type):
        return pa.nulls(table.rows, pa.large_string())
    values = table.columns[name]
    if not is_text(values.type) and not pa.types.is_integer(values.type):
        raise table.wrong_type(name, "strings")
    return as_text(values)


def _lines(path: Path, progress: Progress) -> Table:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("user_id", "item_id", "timestamp_ms", "request_id", "kind")
    }
    size = path.stat().st_size
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                _take(columns, line, f"{path.name}: line {number}")
            if number % _LINES == 0:
                progress(min(lines.tell(), size), size)
    progress(size, size)
    types = {"timestamp_ms": pa.int64()}
    arrays = {name: pa.array(cells, types.get(name, pa.large_string())) for name, cells in columns.items()}
    return Table(path.name, arrays, len(columns["user_id"]))


def _take(columns: dict[str, list[Any]], line: bytes, where: str) -> None:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(where, line[:200].decode(errors="replace"), "is not JSON") from error
    if not isinstance(event, dict):
        raise InvalidInput(where, event, "is not an event")
    check_item_id(event.get("user_id"), f"{where}: user_id")
    check_item_id(event.get("item_id"), f"{where}: item_id")
    at = event.get("timestamp_ms")
    if type(at) is not int or not 0 <= at <= MAX_TIMESTAMP_MS:
        raise InvalidInput(f"{where}: timestamp_ms", at, "must be an integer, 0 to 2^53-1")
    for name in ("request_id", "kind"):
        if event.get(name) is not None:
            check_item_id(event[name], f"{where}: {name}")
    for name, cells in columns.items():
        cells.append(event.get(name))
