"""What is said of users and of requests: users.parquet, and further columns of interactions.parquet.

Values go through contracts.items.attribute_slots, which is what serving calls; here once per distinct value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InvalidInput
from contracts.items import AttributeField, AttributeValue, attribute_slots
from contracts.schema import Encoding, FieldEncoding
from training.data.schema import request_fields
from training.data.table import Array, Table, as_text, is_bytes, is_nested, is_text, read_table, read_types

USERS = "users.parquet"
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ROWS_PER_VALUE = 3.0  # from which a value that always comes with one label gives it away

Slots = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class RequestColumns:
    """Columns of K users or requests. slots: (K, S) uint32, those of all fields side by side.

    encodings: what the caller wants, by name; the rest is up to training.vocabularies.
    """

    fields: tuple[AttributeField, ...]
    slots: Slots
    encodings: Mapping[str, Encoding]
    columns: Mapping[str, Array] = field(repr=False)  # (K,) each, as they came

    def values(self, row: int) -> dict[str, AttributeValue]:
        """What a score request says of this user or request; absent values are left out."""
        out: dict[str, AttributeValue] = {}
        for f in self.fields:
            cell = self.columns[f.name][row].as_py()
            if cell is not None and cell == cell and cell != "":
                out[f.name] = float(cell) if f.kind == "numeric" else cell
        return out

    def take(self, rows: npt.NDArray[np.int64]) -> RequestColumns:
        """The columns of other rows: (K',)."""
        columns = {name: values.take(pa.array(rows)) for name, values in self.columns.items()}
        return RequestColumns(self.fields, self.slots[rows], self.encodings, columns)

    def slots_of(self, wanted: Sequence[FieldEncoding], where: str) -> Slots:
        """(K, S') the slots of some fields, in their order. InvalidInput where one is not there."""
        starts = np.cumsum([0, *(f.slots for f in self.fields)])
        places = {f: np.arange(a, a + f.slots) for f, a in zip(self.fields, starts[:-1], strict=True)}
        for f in wanted:
            if f.field not in places:
                raise InvalidInput(f"schema.{where}.{f.field.name}", f.field, "is not a column of the data")
        kept = [places[f.field] for f in wanted]
        return self.slots[:, np.concatenate(kept)] if kept else self.slots[:, :0]


def load_users(
    directory: Path, user_ids: Sequence[str], named: Sequence[str] | None, encodings: Mapping[str, Encoding]
) -> tuple[RequestColumns, int] | None:
    """users.parquet of `directory`, None where there is none -> its columns by user of the log, (U,) rows.

    Also how many users have no row there: all their columns are absent. named: columns, None to infer.
    """
    path = directory / USERS
    if not path.exists():
        if named:
            raise InvalidInput("user_columns", list(named), f"there is no {USERS}")
        return None
    table = read_table(path, readable(path, ("user_id",), named))
    ids = as_text(table.ids("user_id"))
    known = {user_id: row for row, user_id in enumerate(ids.to_pylist())}
    table.refuse_repeated("user_id")
    fields = request_fields(table, named, encodings, ("user_id",), "user_columns")
    rows = np.array([known.get(user_id, -1) for user_id in user_ids], dtype=np.int64)
    taken = pa.array(np.maximum(rows, 0), mask=rows < 0)  # a null takes a null
    for f in fields:
        _check_cells(table, f)
    columns = {f.name: table.columns[f.name].take(taken) for f in fields}
    return RequestColumns(fields, _slots(columns, fields), encodings, columns), int((rows < 0).sum())


def request_columns(
    log: Table,
    requests: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    named: Sequence[str] | None,
    encodings: Mapping[str, Encoding],
    roles: Sequence[str],
) -> RequestColumns | None:
    """Further columns of the log by request (Q,), None where there are none.

    requests: (R,) numbers of the log's rows `order`: (R,). Raises InvalidInput where rows of one request
    differ.
    """
    firsts = np.empty(int(requests.max()) + 1, dtype=np.int64)
    firsts[requests[::-1]] = order[::-1]
    others = {
        name: values for name, values in log.columns.items() if name not in roles or name in (named or ())
    }
    taken = Table(log.name, {n: v.take(pa.array(firsts)) for n, v in others.items()}, len(firsts))
    fields = request_fields(taken, named, encodings, roles, "context_columns")
    if not fields:
        return None
    for f in fields:
        _check_cells(log, f)
        codes = _codes(log.columns[f.name])[order]
        mixed = np.zeros(log.rows, dtype=bool)
        mixed[order] = codes != _codes(log.columns[f.name])[firsts][requests]
        log.refuse(
            f.name,
            mixed,
            "differs from other rows of its request: name the columns to read in context_columns",
        )
    columns = {f.name: taken.columns[f.name] for f in fields}
    return RequestColumns(fields, _slots(columns, fields), encodings, columns)


def refuse_giveaways(
    file: str,
    context: RequestColumns,
    requests: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int8],
) -> None:
    """A column that says the label of every row was written after it: InvalidInput names the column.

    requests, labels: (R,) of the train rows. Values that occur less than three times on average say nothing.
    """
    for f in context.fields:
        codes = _codes(context.columns[f.name])[requests]
        values, place = np.unique(codes, return_inverse=True)
        liked = np.bincount(place, weights=labels == 1)
        rows = np.bincount(place)
        one_label = bool(((liked == 0) | (liked == rows)).all() and rows.mean() >= _ROWS_PER_VALUE)
        if f.kind == "numeric" and not one_label:
            one_label = _parted(context.columns[f.name], requests, labels)
        if one_label and len(values) > 1 and 0 < liked.sum() < len(labels):
            raise InvalidInput(
                f"{file}: column '{f.name}'",
                len(values),
                "gives the label of every train row away: name the columns to read in context_columns",
            )


def _parted(column: Array, requests: npt.NDArray[np.int64], labels: npt.NDArray[np.int8]) -> bool:
    """Whether a threshold tells all labels apart."""
    numbers = _floats(column)[requests]
    liked, others = (numbers[(labels == label) & ~np.isnan(numbers)] for label in (1, 0))
    if len(liked) < _ROWS_PER_VALUE or len(others) < _ROWS_PER_VALUE:
        return False
    return bool(others.max() < liked.min() or liked.max() < others.min())


def readable(path: Path, roles: Sequence[str], named: Sequence[str] | None) -> list[str] | None:
    """The columns to read of a file: roles and named ones, or roles and all that rankers could read."""
    if named is not None:
        return [*roles, *named]
    types = read_types(path)
    if types is None:
        return None  # read_table says what is wrong with it
    return [n for n, kind in types.items() if n in roles or not (is_bytes(kind) or is_nested(kind))]


def _check_cells(table: Table, f: AttributeField) -> None:
    if f.kind == "numeric":
        numbers = table.floats(f.name)
        table.refuse(f.name, np.abs(np.nan_to_num(numbers, nan=0.0)) > _FLOAT32_MAX, "does not fit float32")


def _slots(columns: Mapping[str, Array], fields: Sequence[AttributeField]) -> Slots:
    blocks = [_column_slots(columns[f.name], f) for f in fields]
    rows = len(blocks[0]) if blocks else 0
    return np.concatenate([np.zeros((rows, 0), np.uint32), *blocks], axis=1)


def _column_slots(values: Array, f: AttributeField) -> Slots:
    """(K,) -> (K, slots) uint32; a categorical value is hashed once, however many rows have it."""
    if f.kind == "numeric":
        return _floats(values).astype(np.float32).view(np.uint32)[:, None]
    encoded = values.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    table = np.zeros((len(distinct) + 1, f.slots), dtype=np.uint32)  # the last row: absent
    for row, value in enumerate(distinct):
        if value == value:  # NaN: absent
            table[row] = attribute_slots({f.name: value}, (f,))
    codes = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False)
    out: Slots = table[codes]
    return out


def _floats(values: Array) -> npt.NDArray[np.float64]:
    """(K,) float64, NaN where null; booleans as 0 and 1."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    out: npt.NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return out


def _codes(values: Array) -> npt.NDArray[np.int64]:
    """Equal numbers for equal values, (K,) int64; null and NaN are -1."""
    if is_text(values.type):
        codes = pc.fill_null(values.dictionary_encode().indices.cast(pa.int64()), -1)
        return np.asarray(codes.to_numpy(zero_copy_only=False), dtype=np.int64)
    numbers = _floats(values)
    _, codes = np.unique(numbers, return_inverse=True)
    return np.where(np.isnan(numbers), -1, codes).astype(np.int64)
