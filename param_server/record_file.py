"""Parquet files of records: what the offline table, `table export` and `table load` have in common.

Columns: item_id string, sequence uint64, record fixed-size binary, committed_ms int64. The file's metadata
carries the version of this layout and the space header. A tombstone is zero behind its header.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.codec import Rows, check_records
from contracts.errors import InvalidInput, NotFound, SpaceMismatch, UnknownVersion
from contracts.space import Space, parse_header
from contracts.window import Window
from param_server.columns import binary_column, read_binary
from param_server.load_source import Batch

RECORD_FILE_VERSION = 1
COLUMNS = ["item_id", "sequence", "record", "committed_ms"]
_VERSION_KEY, _SPACE_KEY = b"repcenter.offline.version", b"repcenter.space"
_ROW_GROUP = 65_536


def to_table(window: Window) -> pa.Table:
    """A window as the rows of such a file."""
    committed = np.full(len(window.item_ids), window.committed_ms, np.int64)
    return rows_table(window.space, pa.array(window.item_ids, pa.string()), window.records, committed)


def rows_table(
    space: Space, item_ids: pa.Array, records: Rows, committed_ms: npt.NDArray[np.int64]
) -> pa.Table:
    """K rows of such a file. item_ids: K strings; records: (K,); committed_ms: (K,)."""
    columns = [item_ids, pa.array(records["sequence"]), binary_column(records), pa.array(committed_ms)]
    return pa.table(columns, schema=_schema(space))


def space_of(schema: pa.Schema, where: str) -> Space:
    """The space of a file; UnknownVersion or InvalidInput (both name `where`) where it is no such file."""
    metadata = schema.metadata or {}
    if metadata.get(_VERSION_KEY) != str(RECORD_FILE_VERSION).encode():
        raise UnknownVersion(where, metadata.get(_VERSION_KEY), RECORD_FILE_VERSION)
    if schema.names != COLUMNS:
        raise InvalidInput(where, schema.names, f"must have columns {COLUMNS}")
    return parse_header(metadata.get(_SPACE_KEY, b""))


def check_space(schema: pa.Schema, space: Space, where: str) -> None:
    """Refuse a file of another space: SpaceMismatch, and what `space_of` raises."""
    found = space_of(schema, where)
    if found != space:
        raise SpaceMismatch(space.header().decode(), found.header().decode(), where)


def records_of(table: pa.Table, space: Space, where: str) -> Rows:
    """The records (K,) of rows of such a file, checked."""
    records = read_binary(table["record"], space.dtype, f"{where}: record")
    check_records(records, where)
    return records


@dataclass(frozen=True)
class RecordFiles:
    """Files of one space, read as one source of windows. rows: of all files; identity: 32 hex characters that
    change with the files' sizes, times and footers."""

    space: Space
    paths: tuple[Path, ...]
    rows: int
    identity: str

    @classmethod
    def open(cls, path: Path) -> Self:
        """A file, or every Parquet file of a directory such as <offline root>/<space id>.

        Raises NotFound, InvalidInput, UnknownVersion, SpaceMismatch (files of several spaces).
        """
        paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not paths or not all(p.is_file() for p in paths):
            raise NotFound("Parquet file of records", str(path))
        digest, rows, space = hashlib.sha256(), 0, None
        for file in paths:
            with open_parquet(file) as parquet:
                found = space_of(parquet.schema_arrow, file.name)
                rows += parquet.metadata.num_rows
            if space is not None and found != space:
                raise SpaceMismatch(space.header().decode(), found.header().decode(), file.name)
            space = found
            digest.update(file_identity(file).encode())
        assert space is not None
        return cls(space, tuple(paths), rows, digest.hexdigest()[:32])

    def batches(self, first: int, most: int, sequence: int = 0) -> Iterator[Batch]:
        """As a Source: records bring their own sequences."""
        now, row = time.time_ns() // 1_000_000, 0
        for path in self.paths:
            for end, table in batches(path, COLUMNS[:3], max(0, first - row), most):
                records = records_of(table, self.space, path.name)
                window = Window(self.space, table["item_id"].to_pylist(), records, now)
                yield Batch(row + end, len(records), window)
            with open_parquet(path) as parquet:
                row += parquet.metadata.num_rows


class RecordFileWriter:
    """One such file, written as it comes; it appears when it is whole. A context manager."""

    def __init__(self, path: Path, space: Space) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._space = path, space
        self._part = path.with_name(path.name + ".part")
        self._writer = pq.ParquetWriter(self._part, _schema(space), compression="zstd")
        self._held: list[pa.Table] = []
        self._rows = 0

    def write(self, item_ids: Sequence[str], records: Rows) -> None:
        """Add records; blocking, so call from a thread."""
        self._held.append(to_table(Window(self._space, list(item_ids), records, _now())))
        self._rows += len(records)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held))
        self._held, self._rows = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


def open_parquet(path: Path) -> pq.ParquetFile:
    """NotFound, or InvalidInput that names the file."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise NotFound("Parquet file", str(path)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(path.name, str(path), f"is not a Parquet file: {error}") from error


def batches(
    path: Path, columns: Sequence[str] | None, first: int, most: int
) -> Iterator[tuple[int, pa.Table]]:
    """Tables of at most `most` rows from row `first` on, each with the row that it ends before."""
    with open_parquet(path) as parquet:
        sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        group = int(np.searchsorted(ends, first, side="right"))
        row = int(ends[group - 1]) if group else 0
        if group >= len(sizes):
            return
        try:
            for batch in parquet.iter_batches(
                most, row_groups=range(group, len(sizes)), columns=None if columns is None else list(columns)
            ):
                start, row = row, row + batch.num_rows
                if row > first:
                    yield row, pa.Table.from_batches([batch.slice(max(0, first - start))])
        except pa.ArrowInvalid as error:
            raise InvalidInput(path.name, row, f"is broken behind this row: {error}") from error


def file_identity(path: Path) -> str:
    """Of a local file's size, time and last bytes (a Parquet footer says where every column lies)."""
    stat = path.stat()
    with path.open("rb") as stream:
        stream.seek(max(0, stat.st_size - (1 << 20)))
        tail = hashlib.sha256(stream.read()).hexdigest()
    return f"{stat.st_size} {stat.st_mtime_ns} {tail}"


def committed_of(table: pa.Table) -> npt.NDArray[np.int64]:
    """(K,) wall clock of the commits, ms."""
    out: npt.NDArray[np.int64] = table["committed_ms"].to_numpy()
    return out


def _schema(space: Space) -> pa.Schema:
    return pa.schema(
        [
            ("item_id", pa.string()),
            ("sequence", pa.uint64()),
            ("record", pa.binary(space.dtype.itemsize)),
            ("committed_ms", pa.int64()),
        ],
        {_VERSION_KEY: str(RECORD_FILE_VERSION).encode(), _SPACE_KEY: space.header()},
    )


def _now() -> int:
    return time.time_ns() // 1_000_000
