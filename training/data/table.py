"""One parquet file whose columns are checked while they are read; errors name file, column and row.

Rows are counted from 0 in the file's own order. Checks are vectorised; only the first offender is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InvalidInput
from contracts.items import MAX_ID_BYTES

Array = Any  # pa.Array: pyarrow ships no types


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of one file. `name` is the file's name as errors show it."""

    name: str
    columns: dict[str, Array]
    rows: int

    def error(self, column: str, row: int, value: object, reason: str) -> InvalidInput:
        """What to raise about one cell."""
        return InvalidInput(f"{self.name}: column '{column}', row {row}", value, reason)

    def column(self, name: str) -> Array:
        """The column, or InvalidInput that says which columns there are."""
        if name not in self.columns:
            raise InvalidInput(f"{self.name}: column '{name}'", sorted(self.columns), "is missing")
        return self.columns[name]

    def wrong_type(self, name: str, wanted: str) -> InvalidInput:
        """What to raise about a whole column."""
        return InvalidInput(
            f"{self.name}: column '{name}'", str(self.columns[name].type), f"must be {wanted}"
        )

    def refuse(self, name: str, bad: npt.NDArray[np.bool_], reason: str) -> None:
        """Raise about the first row where bad: (R,) bool holds."""
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise self.error(name, row, self.columns[name][row].as_py(), reason)

    def refuse_nulls(self, name: str) -> None:
        """Raise about the first null of the column."""
        if self.column(name).null_count:
            self.refuse(name, mask(pc.is_null(self.columns[name])), "must not be null")

    def ids(self, name: str) -> Array:
        """(R,) ids, integers or large_string: not null, not empty, at most MAX_ID_BYTES bytes."""
        values = self.column(name)
        if not pa.types.is_integer(values.type) and not is_text(values.type):
            raise self.wrong_type(name, "integers or strings")
        self.refuse_nulls(name)
        if is_text(values.type):
            sizes = pc.binary_length(values).to_numpy(zero_copy_only=False)
            self.refuse(name, sizes == 0, "must not be empty")
            self.refuse(name, sizes > MAX_ID_BYTES, f"exceeds {MAX_ID_BYTES} bytes")
        return values

    def refuse_repeated(self, name: str) -> None:
        """Raise about the first id of the column that is there a second time."""
        codes, distinct = self.codes(name)
        if len(distinct) != self.rows:
            repeated = np.ones(self.rows, dtype=bool)
            repeated[np.unique(codes, return_index=True)[1]] = False
            self.refuse(name, repeated, "is there twice")

    def codes(self, name: str) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Ids as numbers: (R,) int64 codes by first appearance, and the K distinct ids as strings."""
        encoded = self.ids(name).dictionary_encode()
        return (
            encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
            as_text(encoded.dictionary).to_pylist(),
        )

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        """(R,) float64, NaN where null; booleans as 0 and 1."""
        values = self.column(name)
        if not is_number(values.type) and not pa.types.is_boolean(values.type):
            raise self.wrong_type(name, "numbers")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        out: npt.NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return out

    def vectors(self, name: str) -> npt.NDArray[np.float32]:
        """(R, d) float32 of a column of lists, all of one width; zero where the list is null or empty."""
        values = self.column(name)
        if not is_list_of_numbers(values.type):
            raise self.wrong_type(name, "lists of numbers")
        lists = values.cast(pa.large_list(pa.float64()))
        sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        width = int(sizes.max(initial=0))
        self.refuse(name, (sizes != 0) & (sizes != width), f"must hold {width} numbers, as other rows do")
        out = np.zeros((self.rows, width), dtype=np.float64)
        out[sizes > 0] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        large: npt.NDArray[np.float64] = np.abs(out).max(axis=1, initial=0.0)
        self.refuse(name, ~(large <= np.finfo(np.float32).max), "must hold finite numbers that fit float32")
        return out.astype(np.float32)

    def seconds(self, name: str) -> npt.NDArray[np.int64]:
        """(R,) int64 seconds, not negative: integers, floats and parquet timestamps, rounded down."""
        values = self.column(name)
        self.refuse_nulls(name)
        if pa.types.is_timestamp(values.type):
            per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[values.type.unit]
            out = values.cast(pa.int64()).to_numpy(zero_copy_only=False) // per_second
        elif pa.types.is_integer(values.type):
            if values.type == pa.uint64():
                self.refuse(name, values.to_numpy() > np.uint64(2**63 - 1), "must fit int64")
            out = values.to_numpy(zero_copy_only=False).astype(np.int64)
        elif pa.types.is_floating(values.type):
            wide = self.floats(name)
            self.refuse(name, ~np.isfinite(wide) | (np.abs(wide) >= 2.0**63), "must be a finite number")
            out = np.floor(wide).astype(np.int64)
        else:
            raise self.wrong_type(name, "integers, floats or timestamps")
        self.refuse(name, out < 0, "must not be negative")
        return np.asarray(out, dtype=np.int64)


def read_table(path: Path, columns: Sequence[str] | None = None) -> Table:
    """The file's columns, or those of `columns` that it has. Lists of strings are joined with "|"."""
    if not path.is_file():
        raise InvalidInput(path.name, str(path), "no such file")
    try:
        file = pq.ParquetFile(path)
        present = file.schema_arrow.names
        if len(set(present)) != len(present):
            raise InvalidInput(path.name, present, "has two columns of one name")
        wanted = [name for name in present if columns is None or name in columns]
        data = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(path.name, str(path), f"is not a readable parquet file ({error})") from error
    return Table(path.name, {name: _plain(path.name, name, data[name]) for name in wanted}, data.num_rows)


def read_types(path: Path) -> dict[str, Any] | None:
    """The arrow type of each column of a file, of a dictionary's values; None where it cannot be read."""
    if not path.is_file():
        return None
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return None
    kinds = {f.name: f.type for f in schema}
    return {n: k.value_type if pa.types.is_dictionary(k) else k for n, k in kinds.items()}


def _plain(file: str, name: str, values: Any) -> Array:
    """A chunked column -> one array; dictionaries decoded, text as large_string, its UTF-8 checked."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if is_list_of_text(values.type):
        lists = values.cast(pa.large_list(pa.large_string()))
        values = pc.binary_join(lists, pa.scalar("|", pa.large_string()))
        if values.null_count != lists.null_count:  # a list that holds a null joins to null
            row = int(np.flatnonzero(mask(pc.and_(pc.is_null(values), pc.is_valid(lists))))[0])
            raise InvalidInput(f"{file}: column '{name}', row {row}", lists[row].as_py(), "holds a null")
    elif is_text(values.type):
        values = values.cast(pa.large_string())
    elif values.type == pa.binary() or pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        row, cell = _first_broken(values)
        raise InvalidInput(f"{file}: column '{name}', row {row}", cell, "is not valid UTF-8") from error
    return values


def _first_broken(values: Array) -> tuple[int, bytes | None]:
    """The first cell of a string column that is not UTF-8."""
    for row, cell in enumerate(values.cast(pa.large_binary()).to_pylist()):
        try:
            (cell or b"").decode()
        except UnicodeDecodeError:
            return row, cell
    return 0, None


def mask(values: Any) -> npt.NDArray[np.bool_]:
    """An arrow boolean array without nulls -> (R,) bool."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    out: npt.NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return out.astype(bool)


def as_text(ids: Array) -> Array:
    """Integer ids as decimal strings; strings as they are."""
    return ids if ids.type == pa.large_string() else ids.cast(pa.large_string())


def is_text(kind: Any) -> bool:
    """Whether an arrow type holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list_of_text(kind: Any) -> bool:
    """Whether an arrow type holds lists of strings."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists and is_text(kind.value_type))


def is_list_of_numbers(kind: Any) -> bool:
    """Whether an arrow type holds lists of integers or floats."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and is_number(kind.value_type))


def is_nested(kind: Any) -> bool:
    """Whether an arrow type holds anything but single values and lists of strings."""
    return bool(pa.types.is_nested(kind) and not is_list_of_text(kind))


def is_number(kind: Any) -> bool:
    """Whether an arrow type holds integers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_bytes(kind: Any) -> bool:
    """Whether an arrow type holds byte strings."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))
