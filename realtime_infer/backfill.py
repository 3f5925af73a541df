"""The whole catalogue through the same Encoder as live pushes, into the serving and the offline table.

Every row carries the run's watermark as its sequence, so a live push accepted after it wins, whichever is
committed first. A run that was interrupted goes on where it stopped, with its own watermark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import numpy as np

from contracts.errors import Conflict, InvalidInput, RepcenterError
from contracts.guard import flagged
from contracts.items import Item, check_item
from contracts.window import Window
from doors.shutdown import cancel
from param_server.offline import OfflineTable
from param_server.server import Server
from param_server.store import MAX_WINDOW, Store
from param_server.windows import Windows
from realtime_infer.backfill_ledger import BackfillLedger, Done, batch_digest
from realtime_infer.courtesy import Courtesy
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.isolate import run_isolated
from realtime_infer.load_pictures import PictureLoader, open_pictures
from realtime_infer.pictures import Pictures
from realtime_infer.settings import EncoderSettings

MAX_FAILURES = 1_000
Failure = tuple[str, RepcenterError]
Source = Item | Failure


@dataclass
class BackfillReport:
    """items: seen; committed: written by this run; skipped: in both tables already; superseded: lost to a
    newer push; failed: could not be encoded; flagged: encoded by this run with too large a loss
    (contracts.guard), by modality. failures: (item id, reason) of the first MAX_FAILURES. waited_s: in which
    it gave way to pushes."""

    space_id: str
    watermark: int
    items: int = 0
    committed: int = 0
    skipped: int = 0
    superseded: int = 0
    failed: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    waited_s: float = 0.0

    def fail(self, item_id: str, error: RepcenterError) -> None:
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append((item_id, str(error)))


async def backfill(
    items: Iterable[Source],
    encoder: Encoder,
    store: Store,
    stream: Server,
    offline_root: str,
    *,
    batch_size: int = 128,
    resume: bool = True,
    watermark: int | None = None,
    progress: Callable[[BackfillReport], None] | None = None,
    settings: EncoderSettings | None = None,
) -> BackfillReport:
    """Encode items (any iterable, read in a thread, batch by batch) into the encoder's space.

    Pictures are fetched and decoded as a worker does it, by processes that may die, one batch ahead.

    items: each an Item, or (its id, the error) where it could not be read: that one is a failure of the
    report and the others go on. What the iterable itself raises ends the run.
    stream: a client of the push stream's server, for the watermark and the window messages.
    offline_root: root of the offline table. progress: called after each batch. resume: pass over batches
    that are in both tables with the same content; False writes everything again with a new watermark.
    watermark: take it with Ingest.watermark() before you read the snapshot, so that pushes accepted while
    it is read win; None takes one now. A run that goes on where it stopped keeps its own.
    Items that fail are reported, never raised. Of an id in two batches the first stays. Raises
    Unavailable (run again: it resumes), Conflict where the catalogue or batch_size differs from the
    interrupted run's.
    """
    if not 1 <= batch_size <= MAX_WINDOW:
        raise InvalidInput("batch_size", batch_size, f"must be 1 to {MAX_WINDOW}")
    settings = settings or EncoderSettings()
    windows = Windows(store, stream, settings.max_windows, settings.max_window_bytes)
    run = _Run(encoder, store, windows, offline_root, resume)
    began = time.perf_counter()
    await store.create_space(encoder.space)
    done = await asyncio.to_thread(run.ledger.read)
    going_on = done.unfinished if resume else None
    if going_on is None and watermark is not None and watermark <= done.newest:
        raise InvalidInput("watermark", watermark, f"must be above the last run's, {done.newest}")
    least = max(done.newest, await store.high_water(), watermark or 0)
    ingest = Ingest(stream, settings)
    courtesy = Courtesy(ingest, settings.backfill_backlog, settings.backfill_wait_s)
    taken = await ingest.watermark(at_least=least)
    # Where `taken` is not used, it keeps what follows above the one that is, on a new server too.
    watermark = next(mark for mark in (going_on, watermark, taken) if mark is not None)
    await asyncio.to_thread(run.ledger.begin, watermark)
    report = BackfillReport(encoder.space.id, watermark)
    async with (
        open_pictures(settings) as pictures,
        aclosing(run.batches(iter(items), batch_size, watermark, done, pictures)) as batches,
    ):
        async for batch in batches:
            report.items += len(batch.items) + len(batch.failures)
            for item_id, error in batch.failures:
                report.fail(item_id, error)
            await courtesy.give_way()
            report.waited_s = courtesy.waited_s
            if batch.pictures is None:
                report.skipped += len(batch.items)
            elif batch.items:
                await run.write(batch, batch.pictures, report)
            if batch.items and not batch.known:
                await asyncio.to_thread(run.ledger.done, watermark, batch.number, batch.digest)
            report.seconds = time.perf_counter() - began
            if progress is not None:
                progress(report)
    await asyncio.to_thread(run.ledger.finish, watermark)
    return report


@dataclass(frozen=True)
class _Batch:
    """Items to be written under a sequence. failures: of items that are not in it; known: the ledger has it;
    pictures: None where both tables hold the batch already."""

    number: int
    items: list[Item]
    failures: list[Failure]
    digest: str
    sequence: int
    known: bool
    pictures: Pictures | None


class _Run:
    """Where one backfill reads and writes."""

    def __init__(
        self, encoder: Encoder, store: Store, windows: Windows, offline_root: str, resume: bool
    ) -> None:
        self._resume = resume
        self._encoder = encoder
        self._store = store
        self._windows = windows
        self._offline = OfflineTable(offline_root)
        self.ledger = BackfillLedger(offline_root, encoder.space.id)

    async def batches(
        self, source: Iterator[Source], count: int, watermark: int, done: Done, loader: PictureLoader
    ) -> AsyncGenerator[_Batch, None]:
        """The source in batches, the next one read and its pictures decoded while one is written."""
        number = 0
        ahead = asyncio.create_task(self._batch(source, count, number, watermark, done, loader))
        try:
            while (batch := await ahead).items or batch.failures:
                number += 1
                ahead = asyncio.create_task(self._batch(source, count, number, watermark, done, loader))
                yield batch
        finally:
            with suppress(Exception):  # what ended the run is raised already
                await cancel(ahead)

    async def _batch(
        self,
        source: Iterator[Source],
        count: int,
        number: int,
        watermark: int,
        done: Done,
        loader: PictureLoader,
    ) -> _Batch:
        items, failures = await asyncio.to_thread(_take, source, count)
        if not items:
            return _Batch(number, items, failures, "", watermark, False, {})
        digest = await asyncio.to_thread(batch_digest, items)
        known = _known(done, watermark, number, digest) if self._resume else None
        sequence = watermark if known is None else known
        if known is not None and await self.holds(items, known):
            return _Batch(number, items, failures, digest, sequence, True, None)
        pictures = await loader.load(items, self._encoder.picture_size)
        return _Batch(number, items, failures, digest, sequence, known is not None, pictures)

    async def holds(self, batch: Sequence[Item], watermark: int) -> bool:
        """Whether the serving table holds every item of a batch that the ledger calls done."""
        stored = await self._store.sequences(self._encoder.space, [item.item_id for item in batch])
        return bool((stored >= watermark).all())

    async def write(self, batch: _Batch, pictures: Pictures, report: BackfillReport) -> None:
        """Serving table, window message, offline table: in this order, each idempotent."""
        sequences = np.full(len(batch.items), batch.sequence, dtype=np.uint64)
        prepared = await asyncio.to_thread(self._encoder.prepare, batch.items, pictures)
        good, rows, failures = await asyncio.to_thread(run_isolated, self._encoder, prepared, sequences)
        for i, error in sorted(failures.items()):
            report.fail(batch.items[i].item_id, error)
        for name, count in flagged(rows, [m.name for m in self._encoder.space.modalities]).items():
            report.flagged[name] = report.flagged.get(name, 0) + count
        ids = [batch.items[i].item_id for i in good.tolist()]
        if not ids:
            return
        window = Window(self._encoder.space, ids, rows, time.time_ns() // 1_000_000)
        held = await self._windows.commit(window)
        report.committed += len(held.item_ids)
        report.superseded += len(ids) - len(held.item_ids)
        await self._windows.announce(held)
        if held.item_ids:
            name = f"backfill-{batch.sequence:020d}"
            await asyncio.to_thread(self._offline.append, held, name)


def _known(done: Done, watermark: int, number: int, digest: str) -> int | None:
    """The watermark under which a batch of this very content was done before; None: it was not.

    The content is as old as that watermark, so whatever was pushed since still wins.
    """
    known = done.batches.get(number)
    if known is None or known.digest == digest:
        return None if known is None else known.watermark
    if known.watermark == watermark:
        raise Conflict(
            f"batch {number} differs from the interrupted backfill's: the catalogue or the batch size "
            "has changed; start a new one (resume=False)"
        )
    return None


def _take(source: Iterator[Source], count: int) -> tuple[list[Item], list[Failure]]:
    """The next `count` usable items; one that was not read, has no usable id or comes twice has failed."""
    batch, failures = dict[str, Item](), list[Failure]()
    for item in source:
        if isinstance(item, tuple):
            failures.append(item)
            continue
        try:
            if check_item(item).item_id in batch:
                raise InvalidInput("item_id", item.item_id, "comes twice in one batch")
        except RepcenterError as error:
            failures.append((str(item.item_id), error))
            continue
        batch[item.item_id] = item
        if len(batch) == count:
            break
    return list(batch.values()), failures
