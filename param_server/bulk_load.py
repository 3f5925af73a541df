"""Parquet files of windows into a space, through `Store.commit_window` like every other write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.codec import check_records
from contracts.errors import InvalidInput, Unavailable
from contracts.space import Space
from contracts.window import Window
from param_server.columns import read_binary
from param_server.store import Store

_WINDOW = 2_048  # records; with _IN_FLIGHT: what waits at the server must be done well within its timeout
_IN_FLIGHT = 8  # windows: with appendfsync always the server syncs once for all that it has just read
_ATTEMPTS, _PAUSE_S = 5, 0.5  # a commit is repeated while the server is busy, say with rewriting its files


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
    again, so an interrupted load is repeated as a whole; a server that is gone for seconds is waited for.
    progress: called after each window.
    Raises InvalidInput (names the file), UnknownVersion, Unavailable and what `commit_window` raises.
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
            accepted = await _commit(store, window)
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


async def _commit(store: Store, window: Window) -> npt.NDArray[np.bool_]:
    for attempt in range(1, _ATTEMPTS):
        try:
            return await store.commit_window(window)
        except Unavailable:
            await asyncio.sleep(attempt * _PAUSE_S)
    return await store.commit_window(window)


def _windows(space: Space, files: Sequence[Path]) -> Iterator[Window]:
    now = time.time_ns() // 1_000_000
    for file in files:
        try:
            for batch in pq.ParquetFile(file).iter_batches(_WINDOW, columns=["item_id", "record"]):
                table = pa.Table.from_batches([batch])
                records = read_binary(table["record"], space.dtype, f"{file.name}.record")
                check_records(records, file.name)
                yield Window(space, table["item_id"].to_pylist(), records, now)
        except (pa.ArrowInvalid, KeyError) as error:
            raise InvalidInput(file.name, str(file), f"is not a file of records: {error}") from error
