"""The micro-batch loop: read, encode, commit, announce, settle; in that order, so nothing is lost.

Entries that another worker (or an earlier life of this one) left behind are done one at a time: if one of
them kills the process again, only its own count of deliveries grows, and at the limit it alone goes to the
dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from contracts.codec import tombstones
from contracts.errors import Conflict, DeadlineExceeded, RepcenterError, Unavailable
from contracts.items import Item
from contracts.window import Window
from param_server.windows import Windows
from realtime_infer.delivery import Delivery, Settlement
from realtime_infer.encoder import Encoder
from realtime_infer.encoder_source import EncoderSource
from realtime_infer.isolate import run_isolated
from realtime_infer.load_pictures import PictureLoader
from realtime_infer.metrics import WorkerMetrics
from realtime_infer.pictures import Pictures
from realtime_infer.push_entry import ITEM_ID, SEQUENCE, PushEntry, decode_entry
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.sequences import Sequences
from realtime_infer.settings import EncoderSettings

log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
T = TypeVar("T")


class Stopped(Exception):
    """The worker was told to stop while a server was gone; what it held stays in the stream."""


class GaveUp(RepcenterError):
    """An entry was delivered too often without an end."""

    code = "internal"


class Worker:
    """One consumer of the push stream."""

    def __init__(
        self,
        queue: PushQueue,
        windows: Windows,
        sequences: Sequences,
        source: EncoderSource,
        settings: EncoderSettings,
        metrics: WorkerMetrics,
        pictures: PictureLoader,
    ) -> None:
        self._queue = queue
        self._windows = windows
        self._sequences = sequences
        self._source = source
        self._settings = settings
        self._pictures = pictures
        self.metrics = metrics
        self._stop = asyncio.Event()
        self._not_ready: RepcenterError = Unavailable("the worker is starting")
        self._ready = self._opened = False
        self._next_reclaim = 0.0

    @property
    def ready(self) -> bool:
        """Whether check() would raise nothing."""
        return self._ready

    def check(self) -> None:
        """Nothing while the encoder's golden replay has passed and the stream answers, else Unavailable."""
        if not self._ready:
            raise Unavailable(str(self._not_ready))

    def stop(self) -> None:
        """Finish the batch in hand, then end."""
        self._stop.set()

    async def run(self) -> None:
        """Work until stop(). Raises BrokenBundle where the encoder no longer matches its golden outputs."""
        try:
            await self._patiently(self._source.current)
            self._opened = True
            await self._patiently(self._queue.open)
            await self._take_over(0, own=True)
            while not self._stop.is_set():
                if time.monotonic() >= self._next_reclaim:
                    await self._take_over(self._settings.reclaim_idle_ms)
                    self._next_reclaim = time.monotonic() + self._settings.reclaim_idle_ms / 4000
                batch = await self._patiently(self._read)
                if batch:
                    await self._work(batch)
        except Stopped:
            log.warning("stopped while a server was gone; the batch in hand stays in the stream")
        finally:
            self._say(False, Unavailable("the worker has stopped"))

    async def _read(self) -> list[Delivery]:
        try:
            return await self._queue.read()
        except Unavailable:
            await self._queue.open()  # a server that lost its data has lost the group too
            raise

    async def _take_over(self, min_idle_ms: int, *, own: bool = False) -> None:
        """Every entry left behind, one at a time.

        A claim is a delivery: none is made while the table does not answer, or an outage would use them up.
        """
        while not self._stop.is_set():
            await self._patiently(self._sequences.catch_up)
            left = await self._patiently(lambda: self._abandoned(min_idle_ms, own))
            for entry in left:
                if self._stop.is_set():
                    return
                await self._take_over_one(entry, min_idle_ms)
            if not left:
                return

    async def _abandoned(self, min_idle_ms: int, own: bool) -> list[Delivery]:
        try:
            return await self._queue.abandoned(min_idle_ms, own=own)
        except Unavailable:
            await self._queue.open()
            raise

    async def _take_over_one(self, entry: Delivery, min_idle_ms: int) -> None:
        delivery = await self._patiently(lambda: self._queue.claim(entry, min_idle_ms))
        if delivery is None:
            return
        self.metrics.reclaimed.inc()
        if delivery.deliveries > self._settings.max_deliveries:
            error = GaveUp(
                f"delivered {entry.deliveries} times without an end: it may kill whoever encodes it"
            )
            await self._settle([Settlement(delivery, PushState.DEAD, error)])
        else:
            await self._work([delivery])

    async def _work(self, batch: Sequence[Delivery]) -> None:
        self.metrics.batch(len(batch))
        encoder = await self._patiently(self._source.current)
        await self._patiently(lambda: self._queue.encoding(batch))
        batch = await self._patiently(lambda: self._queue.fetch(batch))
        with self.metrics.stage("encode"):
            loop = asyncio.get_running_loop()

            def load(items: Sequence[Item], size: tuple[int, int]) -> Pictures:
                return asyncio.run_coroutine_threadsafe(self._pictures.load(items, size), loop).result()

            window, ends = await self._patiently(
                lambda: asyncio.to_thread(_encode_batch, encoder, batch, load)
            )
        self.metrics.encoded(window)
        if window.item_ids:
            with self.metrics.stage("commit"):
                held = await self._patiently(lambda: self._windows.commit(window))
            with self.metrics.stage("announce"):
                await self._patiently(lambda: self._windows.announce(held))
            lost = await self._patiently(lambda: self._sequences.lost_to_another_count(window, held))
            ends = _without_lost(ends, lost)
        await self._settle(ends)

    async def _settle(self, ends: Sequence[Settlement]) -> None:
        with self.metrics.stage("settle"):
            trimmed = await self._patiently(lambda: self._queue.settle(ends))
        if trimmed:
            self.metrics.trimmed.inc(trimmed)
            log.warning(
                "%d dead letters had to go for newer ones (max_dead_letters, max_dead_bytes)", trimmed
            )
        for end in ends:
            self.metrics.settled(end.state, end.error.code if end.error else "", end.delivery.pushed_ms)
            if end.state is PushState.DEAD:
                log.warning("dead letter %s: %s", end.delivery.entry_id.decode(), end.error)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step, again and again while a server is gone; every step is idempotent. Stopped on stop()."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                result = await step()
            except (Unavailable, DeadlineExceeded) as error:
                log.warning("waiting: %s", error)
                self.metrics.retries.inc()
                self._say(False, error)
            else:
                self._say(self._opened)
                return result
            try:
                await asyncio.wait_for(self._stop.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                raise Stopped

    def _say(self, ready: bool, why: RepcenterError | None = None) -> None:
        self._ready = ready
        self._not_ready = why or self._not_ready
        self.metrics.ready.set(ready)


def _encode_batch(
    encoder: Encoder,
    batch: Sequence[Delivery],
    load: Callable[[Sequence[Item], tuple[int, int]], Pictures],
) -> tuple[Window, list[Settlement]]:
    """Entries -> the window to commit and how each entry ends once it is. Runs in a thread.

    Everything is encoded before the newest of each item is chosen, so a poison push does not take an
    older good one of the same batch with it: the outcome is the same as one by one.
    """
    ends: list[Settlement] = []
    pushes: list[tuple[Delivery, PushEntry]] = []
    deletes: list[tuple[Delivery, PushEntry]] = []
    for delivery in batch:
        try:
            entry = decode_entry(delivery.fields)
        except RepcenterError as error:
            ends.append(Settlement(delivery, PushState.DEAD, error))
            continue
        (deletes if entry.item is None else pushes).append((delivery, entry))
    items = [entry.item for _, entry in pushes if entry.item is not None]
    sequences = np.array([entry.sequence for _, entry in pushes], dtype=np.uint64)
    prepared = encoder.prepare(items, load(items, encoder.picture_size))
    good, rows, failures = run_isolated(encoder, prepared, sequences)
    ends += [Settlement(pushes[i][0], PushState.DEAD, error) for i, error in failures.items()]
    ends += [Settlement(pushes[i][0], PushState.SCOREABLE) for i in good.tolist()]
    ends += [Settlement(delivery, PushState.DELETED) for delivery, _ in deletes]
    gone = np.array([entry.sequence for _, entry in deletes], dtype=np.uint64)
    records = np.concatenate([rows, tombstones(encoder.space.dtype, gone)])
    ids = [pushes[i][1].item_id for i in good.tolist()] + [entry.item_id for _, entry in deletes]
    newest: dict[str, int] = {}
    for position in np.argsort(records["sequence"], kind="stable").tolist():
        newest[ids[position]] = position
    kept = sorted(newest.values())
    window = Window(encoder.space, [ids[i] for i in kept], records[kept], time.time_ns() // 1_000_000)
    return window, ends


def _without_lost(ends: Sequence[Settlement], lost: Mapping[str, int]) -> list[Settlement]:
    """Successes that the table refused because the counter had started again -> dead letters that say so."""
    if not lost:
        return list(ends)
    out = []
    for end in ends:
        newer = 0 if end.error else lost.get(end.delivery.fields[ITEM_ID].decode(), 0)
        if newer:
            reason = (
                f"sequence {int(end.delivery.fields[SEQUENCE])} lost to {newer} of the table, which this "
                "stream never gave: its counter had started again; it is raised now, push again"
            )
            end = Settlement(end.delivery, PushState.DEAD, Conflict(reason))
        out.append(end)
    return out
