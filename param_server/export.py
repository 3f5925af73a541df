"""Spaces and ID tables out of the server, into Parquet files that can be loaded again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.codec import HEADER_BYTES, Rows, id_row_dtype
from contracts.errors import InvalidInput
from contracts.manifest import IdTable
from contracts.space import Space
from param_server import keys
from param_server.columns import binary_column
from param_server.id_rows import BASE_KEY
from param_server.record_file import RecordFileWriter
from param_server.rows import BrokenRow, join_id_rows, join_records
from param_server.scan import scan
from param_server.server import Server

Progress = Callable[[int, int], None]  # buckets done, in all


def _silent(done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass
class ExportReport:
    """records: live ones (or ID rows); deleted: tombstones among what was written."""

    path: str
    records: int = 0
    deleted: int = 0


async def export_space(redis: Server, space: Space, path: Path, progress: Progress = _silent) -> ExportReport:
    """All records and tombstones into one file of the offline table's layout, replaced in one step.

    What is committed meanwhile may be in it or not. Raises Unavailable, UnknownVersion, BrokenRow.
    """
    report, family = ExportReport(str(path)), keys.records(space.id, space.buckets)
    with RecordFileWriter(path, space) as writer:
        async with aclosing(scan(redis, family)) as parts:
            async for part in parts:
                ids, records, dead = stored_records(part.ids, part.values, space)
                await asyncio.to_thread(writer.write, ids, records)
                report.records += len(ids) - dead
                report.deleted += dead
                progress(part.buckets, family.buckets)
    return report


def stored_records(ids: list[bytes], values: list[bytes], space: Space) -> tuple[list[str], Rows, int]:
    """Stored rows -> ids, records (K,) with tombstones zero behind their headers, how many those are."""
    names = [_text(item_id) for item_id in ids]
    size = space.dtype.itemsize
    join_records(values, space.dtype, names, f"export space {space.id}")  # refuses what cannot be read
    padded = [value.ljust(size, b"\0") for value in values]
    dead = sum(len(value) == HEADER_BYTES for value in values)
    return names, np.frombuffer(b"".join(padded), space.dtype), dead


async def export_id_table(
    redis: Server, table: IdTable, path: Path, progress: Progress = _silent
) -> ExportReport:
    """All rows into one file as `write_id_rows` makes it; an overlay's names its base.

    InvalidInput where some are not loaded.
    """
    report, family = ExportReport(str(path)), keys.id_rows(table.name, table.rows)
    dtype = id_row_dtype(table.codec, table.dim)
    base = {} if table.base is None else {BASE_KEY: table.base.encode()}
    schema = pa.schema([("item_id", pa.string()), ("row", pa.binary(dtype.itemsize))], metadata=base)
    path.parent.mkdir(parents=True, exist_ok=True)
    part_path = path.with_name(path.name + ".part")
    try:
        with pq.ParquetWriter(part_path, schema, compression="zstd") as writer:
            async with aclosing(scan(redis, family)) as parts:
                async for part in parts:
                    ids = [_text(item_id) for item_id in part.ids]
                    what = f"export ID table {table.name}"
                    rows, _ = join_id_rows(part.values, dtype, table.codec, ids, what)
                    batch = pa.table([pa.array(ids, pa.string()), binary_column(rows)], schema=schema)
                    await asyncio.to_thread(writer.write_table, batch)
                    report.records += len(ids)
                    progress(part.buckets, family.buckets)
        if report.records != table.rows:
            raise InvalidInput(f"ID table {table.name}", report.records, f"rows are loaded of {table.rows}")
        os.replace(part_path, path)
    finally:
        part_path.unlink(missing_ok=True)
    return report


def _text(item_id: bytes) -> str:
    try:
        return item_id.decode()
    except UnicodeDecodeError as error:
        raise BrokenRow(f"id {item_id!r} is not UTF-8") from error
