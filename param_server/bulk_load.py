"""Parquet files of windows into a space, through `Store.commit_window` like every other write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.codec import check_records
from contracts.errors import InvalidInput
from contracts.space import Space
from contracts.window import Window
from param_server.columns import read_binary
from param_server.store import MAX_WINDOW, Store

_IN_FLIGHT = 12  # windows: with appendfsync always the server syncs once for all that it has just read


@dataclass
class LoadReport:
    """records: read; accepted: now in the table with the sequence they came with."""

    records: int = 0
    accepted: int = 0
    seconds: float = 0.0


async def bulk_load(
    store: Store,
    space: Space,
    files: Sequence[Path],
    progress: Callable[[LoadReport], None] | None = None,
) -> LoadReport:
    """Commit every record of Parquet files with the columns item_id (string) and record (fixed-size binary).

    Of an id that comes twice the newer sequence stays, in whatever order. What is there already is accepted
    again, so an interrupted load is repeated as a whole. progress: called after each window.
    Raises InvalidInput (names the file), UnknownVersion and what `commit_window` raises.
    """
    report, began = LoadReport(), time.perf_counter()
    source = _windows(space, files)
    reading = asyncio.Lock()  # one thread at a time may advance the source

    async def work() -> None:
        while True:
            async with reading:
                window = await asyncio.to_thread(next, source, None)
            if window is None:
                return
            accepted = await store.commit_window(window)
            report.records += len(accepted)
            report.accepted += int(accepted.sum())
            report.seconds = time.perf_counter() - began
            if progress is not None:
                progress(report)

    tasks = [asyncio.create_task(work()) for _ in range(_IN_FLIGHT)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # none is left that still writes
    return report


def _windows(space: Space, files: Sequence[Path]) -> Iterator[Window]:
    now = time.time_ns() // 1_000_000
    for file in files:
        try:
            for batch in pq.ParquetFile(file).iter_batches(MAX_WINDOW, columns=["item_id", "record"]):
                table = pa.Table.from_batches([batch])
                records = read_binary(table["record"], space.dtype, f"{file.name}.record")
                check_records(records, file.name)
                yield Window(space, table["item_id"].to_pylist(), records, now)
        except (pa.ArrowInvalid, KeyError) as error:
            raise InvalidInput(file.name, str(file), f"is not a file of records: {error}") from error
