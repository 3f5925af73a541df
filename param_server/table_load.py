"""Bulk load: windows of a source into a space, a few in flight, resumed where it was interrupted.

Everything goes through a commit of windows, so newer sequences win: a load may be repeated, or run beside
live pushes, and never brings an older record back. A server that is gone for seconds is waited for; one that
was restarted meanwhile is loaded again from where its own ledger says, so what it lost is not missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.codec import CODEC_NAMES, ID_FP16, ID_INT8, check_id_rows, id_row_dtype
from contracts.errors import InvalidInput, NotFound, RepcenterError, Unavailable
from contracts.guard import flagged
from contracts.manifest import IdTable
from contracts.window import Window
from param_server.columns import read_binary
from param_server.id_rows import BASE_KEY
from param_server.load_ledger import LoadLedger, Progress
from param_server.load_source import Batch, Source
from param_server.record_file import batches, open_parquet
from param_server.server import Server
from param_server.server_checks import run_id
from param_server.store import MAX_WINDOW, Store

MAX_FAILURES = 1_000
_IN_FLIGHT = 3  # windows: one is read and packed while the server works on another
_NOTE_EVERY_S = 1.0
_PATIENCE_S, _PAUSE_S = 10.0, 0.25
_RESTARTS = 3  # of the server in one load
_ID_ROWS = 16_384

Commit = Callable[[Window], Awaitable[npt.NDArray[np.bool_]]]


@dataclass
class LoadReport:
    """rows: seen by this run; committed: in the table with what they brought; superseded: lost to something
    newer; refused: could not be used; skipped: done before, by a load that was interrupted; flagged: by
    modality, lost too much when stored; missing: by modality. failures: (item or row, reason) of the first
    MAX_FAILURES."""

    name: str
    sequence: int = 0
    rows: int = 0
    committed: int = 0
    superseded: int = 0
    refused: int = 0
    skipped: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def records_per_s(self) -> float:
        return self.committed / self.seconds if self.seconds else 0.0


async def load_records(
    redis: Server,
    source: Source,
    *,
    commit: Commit | None = None,
    own_sequence: bool = False,
    resume: bool = True,
    patience_s: float = _PATIENCE_S,
    progress: Callable[[LoadReport, int], None] | None = None,
) -> LoadReport:
    """Load a source into its space, made where it is not there.

    commit: of one window, None = the store's. own_sequence: the rows bring none: all get one, above every
    sequence of any space. resume: go on where an interrupted load of the same source stopped, if its rows are
    still there. patience_s: how long each commit waits for a server that is gone. progress: called with the
    report and the rows of the source after each window.
    Raises Unavailable (load again: it resumes), SpaceMismatch, InvalidInput, UnknownVersion.
    """
    store, began = Store(redis), time.perf_counter()
    patient = partial(_patiently, commit or store.commit_window, patience_s)
    ledger = LoadLedger(redis, f"{source.space.id}:{source.identity}")
    for restarts in range(_RESTARTS + 1):
        await store.create_space(source.space)
        server = await run_id(redis)
        before = await ledger.read() if resume or restarts else None
        if before is not None and not (before.holds_on(server) and await _holds(store, source, before)):
            before = None
        begin = before or Progress(0, await store.high_water() + 1 if own_sequence else 0, server)
        begin = replace(begin, server=server)
        await ledger.write(begin)
        report = LoadReport(source.space.id, begin.sequence, skipped=begin.rows)
        run = _Run(source, patient, ledger, report, begin)
        await run.to_the_end(began, progress)
        if run.error is None and await run_id(redis) == server:
            await ledger.finish()
            return report
        if run.error is not None and not (isinstance(run.error, NotFound) and await run_id(redis) != server):
            with suppress(RepcenterError):
                await run.note()
            raise run.error
    raise Unavailable(f"load {source.space.id}: the server was restarted {_RESTARTS + 1} times meanwhile")


async def _patiently(commit: Commit, patience_s: float, window: Window) -> npt.NDArray[np.bool_]:
    """A commit, repeated while the server is gone or busy: one that had been done is accepted again."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await commit(window)
        except Unavailable:
            if time.monotonic() + _PAUSE_S > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)


class _Run:
    """One load: who reads next, what is done of the source without a gap."""

    def __init__(
        self, source: Source, commit: Commit, ledger: LoadLedger, report: LoadReport, begin: Progress
    ) -> None:
        self._source = source
        self._batches = source.batches(begin.rows, MAX_WINDOW, begin.sequence)
        self._names = [m.name for m in source.space.modalities]
        self._commit, self._ledger, self._report = commit, ledger, report
        self._reading = asyncio.Lock()  # one thread at a time may advance the source
        self._begun: list[int] = []  # ends of the batches that are not done, rising
        self._done: set[int] = set()
        self._through = begin
        self._noted = time.monotonic()
        self.error: Exception | None = None

    async def to_the_end(self, began: float, progress: Callable[[LoadReport, int], None] | None) -> None:
        """Load all that is left, or until something fails (`error`). began: of perf_counter."""

        def say() -> None:
            self._report.seconds = time.perf_counter() - began
            if progress is not None:
                progress(self._report, self._source.rows)

        async with asyncio.TaskGroup() as group:
            for _ in range(_IN_FLIGHT):
                group.create_task(self._until_it_fails(say))
        say()

    async def _until_it_fails(self, say: Callable[[], None]) -> None:
        """Read, commit, count, until the source is empty or something fails; others finish their batch."""
        try:
            await self._work(say)
        except Exception as error:
            self.error = self.error or error

    async def _work(self, say: Callable[[], None]) -> None:
        while self.error is None:
            async with self._reading:
                batch = await asyncio.to_thread(next, self._batches, None)
                if batch is None:
                    return
                self._begun.append(batch.end)
            accepted = np.zeros(0, bool)
            if batch.window.item_ids:
                accepted = await self._commit(batch.window)
            self._count(batch, accepted)
            self._done.add(batch.end)
            while self._begun and self._begun[0] in self._done:
                self._done.remove(self._begun[0])
                self._through = replace(self._through, rows=self._begun.pop(0))
            if time.monotonic() - self._noted > _NOTE_EVERY_S:
                self._noted = time.monotonic()
                await self.note()
            say()

    async def note(self) -> None:
        """Write down how far the load is."""
        await self._ledger.write(self._through)

    def _count(self, batch: Batch, accepted: npt.NDArray[np.bool_]) -> None:
        report, records = self._report, batch.window.records
        report.rows += batch.rows
        report.committed += int(accepted.sum())
        report.superseded += len(accepted) - int(accepted.sum())
        report.refused += len(batch.refused)
        report.failures += batch.refused[: MAX_FAILURES - len(report.failures)]
        for m, name in enumerate(self._names):
            absent = int(((records["flags"] >> m) & 1).sum())
            report.missing[name] = report.missing.get(name, 0) + absent
        for name, count in flagged(records, self._names).items():
            report.flagged[name] = report.flagged.get(name, 0) + count


async def _holds(store: Store, source: Source, before: Progress) -> bool:
    """Whether the first and the last window that an interrupted load calls done are in the table."""
    for first in {0, max(0, before.rows - MAX_WINDOW)} if before.rows else ():
        batch = await asyncio.to_thread(next, source.batches(first, MAX_WINDOW, before.sequence), None)
        if batch is None:
            return False
        stored = await store.sequences(source.space, batch.window.item_ids)
        done = batch.end <= before.rows
        if done and not (stored >= batch.window.records["sequence"]).all():
            return False
    return True


async def load_id_rows(
    redis: Server, path: Path, name: str, progress: Callable[[LoadReport, int], None] | None = None
) -> LoadReport:
    """A file of ID rows (`write_id_rows`, `table export`) into an ID table of this name, then sealed.

    Rows that are there with equal bytes are passed over, so an interrupted load is repeated as a whole.
    Raises Conflict (the name is another table's), InvalidInput, UnknownVersion, NotFound, Unavailable.
    """
    store, table = Store(redis), await asyncio.to_thread(read_id_table, path, name)
    dtype = id_row_dtype(table.codec, table.dim)
    report, began = LoadReport(name), time.perf_counter()
    parts = batches(path, ["item_id", "row"], 0, _ID_ROWS)
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        _, rows = part
        values = read_binary(rows["row"], dtype, f"{path.name}.row")
        check_id_rows(values, table.codec)
        await store.load_id_rows(table, rows["item_id"].to_pylist(), values)
        report.rows += len(values)
        report.committed += len(values)
        report.seconds = time.perf_counter() - began
        if progress is not None:
            progress(report, table.rows)
    await store.seal_id_table(table)
    return report


def read_id_table(path: Path, name: str) -> IdTable:
    """What table a file of ID rows would fill: codec and dim are told by its first row, an overlay's base
    by its metadata. Blocking."""
    with open_parquet(path) as parquet:
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    if schema.names != ["item_id", "row"] or schema.field("item_id").type != pa.string():
        raise InvalidInput(path.name, schema.names, "must have the columns item_id (string) and row")
    kind = schema.field("row").type
    if not pa.types.is_fixed_size_binary(kind) or not rows:
        raise InvalidInput(f"{path.name}.row", str(kind), "must be fixed-size binary, of one row at least")
    first = next(batches(path, ["row"], 0, 1))[1]["row"][0].as_py()
    codec, size = first[1] if len(first) > 1 else 0, kind.byte_width
    head = id_row_dtype(codec, 0).itemsize if codec in (ID_INT8, ID_FP16) else 0
    if not head or size <= head:
        raise InvalidInput(f"{path.name}.row", CODEC_NAMES.get(codec, codec), "is no ID row's codec")
    base = (schema.metadata or {}).get(BASE_KEY)
    dim = (size - head) // (2 if codec == ID_FP16 else 1)
    return IdTable(name, codec, dim, rows, None if base is None else base.decode())
