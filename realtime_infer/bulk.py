"""Many pushes in one upload: read ahead within bounds, accepted many at a time, answered one by one in order.

An entry that cannot be used is refused alone. Where the backlog is full the upload waits, and is not read
meanwhile, so its sender is slowed down; only after bulk_wait_s are entries refused. What is sent again after
a wait never overtakes a later entry of the same item (`Acceptor.accept`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from contracts.errors import Overloaded, RepcenterError, TooLarge
from doors.shutdown import cancel
from realtime_infer.acceptor import Write
from realtime_infer.channel import Channel
from realtime_infer.ingest import Ingest
from realtime_infer.metrics import Door, DoorMetrics, Operation
from realtime_infer.push_status import Receipt
from realtime_infer.settings import EncoderSettings

_READ_AHEAD, _READ_AHEAD_BYTES = 256, 8 << 20
_PAUSE_S = 0.25


@dataclass(frozen=True)
class Entry:
    """One of an upload. write: what to accept, or why there is nothing to accept."""

    item_id: str | None
    operation: Operation
    write: Write | Exception

    @property
    def payload_bytes(self) -> int:
        return len(self.write.payload) if isinstance(self.write, Write) else 0


@dataclass(frozen=True)
class BulkOutcome:
    """What became of an entry. index: in the upload, from 0."""

    index: int
    item_id: str | None
    result: Receipt | Exception


class Bulks:
    """The uploads of one door."""

    def __init__(self, ingest: Ingest, metrics: DoorMetrics, settings: EncoderSettings) -> None:
        self._ingest = ingest
        self._metrics = metrics
        self._settings = settings
        self._open = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place among the uploads; Overloaded where none is."""
        if self._open >= self._settings.max_bulks:
            raise Overloaded(f"{self._open} uploads are under way", self._settings.retry_after_s)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def outcomes(self, entries: AsyncIterator[Entry], door: Door) -> AsyncIterator[list[BulkOutcome]]:
        """The outcomes, some at a time, in the order of the entries.

        Raises at the end what `entries` raised, and TooLarge beyond max_bulk_items; what came before has had
        its outcome by then.
        """
        ahead = Channel[Entry](_READ_AHEAD, _READ_AHEAD_BYTES)
        reading = asyncio.create_task(self._read(entries, ahead))
        index = 0
        try:
            while batch := await ahead.take():
                results = await self._accept(batch)
                for entry, result in zip(batch, results, strict=True):
                    self._metrics.outcome(entry.operation, door, result)
                yield [
                    BulkOutcome(index + i, entry.item_id, result)
                    for i, (entry, result) in enumerate(zip(batch, results, strict=True))
                ]
                index += len(batch)
            await reading
        finally:
            if not reading.done():
                await cancel(reading)

    async def _read(self, entries: AsyncIterator[Entry], ahead: Channel[Entry]) -> None:
        most, count = self._settings.max_bulk_items, 0
        try:
            async for entry in entries:
                count += 1
                if count > most:
                    raise TooLarge("items", count, most, "items")
                await ahead.put(entry, entry.payload_bytes)
        finally:
            ahead.close()

    async def _accept(self, batch: Sequence[Entry]) -> list[Receipt | Exception]:
        results: list[Receipt | Exception] = [
            entry.write if isinstance(entry.write, Exception) else _NOT_YET for entry in batch
        ]
        left, waited = [i for i, result in enumerate(results) if result is _NOT_YET], 0.0
        while left:
            writes = [write for i in left if isinstance(write := batch[i].write, Write)]
            try:
                outcomes = await self._ingest.accept(writes)
            except RepcenterError as error:
                outcomes = [error] * len(left)
            for i, outcome in zip(left, outcomes, strict=True):
                results[i] = outcome
            left = [i for i in left if isinstance(results[i], Overloaded)]
            if not left or waited >= self._settings.bulk_wait_s:
                break
            pause = min(_PAUSE_S, self._settings.retry_after_s)
            await asyncio.sleep(pause)
            waited += pause
        return results


_NOT_YET = Receipt("", 0)
