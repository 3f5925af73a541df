"""The loop of a worker: read micro-batches and send them through the stages, follow the scene, take over.

Up to three batches are on their way at a time. Should two workers hold two pushes of one item, the table
takes the newer sequence, so the order in which they are encoded does not matter.

Entries that another worker (or an earlier life of this one) left behind are done one at a time, with no other
batch on its way: if one of them kills the process again, only its own count of deliveries grows, and at the
limit it alone goes to the dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from contracts.errors import RepcenterError, Unavailable
from realtime_infer.delivery import Delivery, Settlement
from realtime_infer.encoder import Encoder
from realtime_infer.encoder_source import EncoderSource
from realtime_infer.metrics import WorkerMetrics
from realtime_infer.patience import Patience, Stopped
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.roster import Roster
from realtime_infer.sequences import Sequences
from realtime_infer.settings import EncoderSettings
from realtime_infer.stages import Stages

log = logging.getLogger(__name__)
_ON_THEIR_WAY = 3  # batches, one in each stage


class GaveUp(RepcenterError):
    """An entry was delivered too often without an end."""

    code = "internal"


class Worker:
    """One consumer of the push stream. stages, patiently: with the stop and metrics of this worker."""

    def __init__(
        self,
        queue: PushQueue,
        stages: Stages,
        sequences: Sequences,
        source: EncoderSource,
        roster: Roster,
        settings: EncoderSettings,
        metrics: WorkerMetrics,
        patiently: Patience,
        stop: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._stages = stages
        self._sequences = sequences
        self._source = source
        self._roster = roster
        self._settings = settings
        self.metrics = metrics
        self._patiently = patiently
        self._stop = stop
        self._on_their_way: deque[asyncio.Task[None]] = deque()
        self._next_reclaim = self._next_said = 0.0
        self._said: list[str] = []

    @property
    def ready(self) -> bool:
        """Whether check() would raise nothing."""
        return self._patiently.ready

    def check(self) -> None:
        """Nothing while the encoder's golden replay has passed and the stream answers, else Unavailable."""
        self._patiently.check()

    def stop(self) -> None:
        """Read no more, finish what was read, then end."""
        self._stop.set()

    async def run(self) -> None:
        """Work until stop(). Raises BrokenBundle where the encoder no longer matches its golden outputs."""
        try:
            await self._patiently(self._encoders)
            self._patiently.begin()
            await self._patiently(self._queue.open)
            await self._take_over(0, own=True)
            while not self._stop.is_set():
                await self._patiently(self._encoders)  # an idle worker follows its scene too
                if time.monotonic() >= self._next_reclaim:
                    await self._take_over(self._settings.reclaim_idle_ms)
                    self._next_reclaim = time.monotonic() + self._settings.reclaim_idle_ms / 4000
                await self._send(await self._patiently(self._read))
            while rest := self._queue.held(self._stages.size.now):
                await self._send(rest)
            await self._arrived(0)
            await self._roster.leave(self._settings.consumer)
        except (Stopped, Unavailable):
            log.warning("stopped while a server was gone; what was in hand stays in the stream")
        finally:
            for task in self._on_their_way:
                task.cancel()
            await asyncio.gather(*self._on_their_way, return_exceptions=True)
            self._patiently.end()

    async def _encoders(self) -> Sequence[Encoder]:
        """The encoders to use now; the roster is told for which spaces that is, once it is so."""
        encoders = await self._source.current()
        spaces = [encoder.space.id for encoder in encoders]
        if spaces != self._said or time.monotonic() >= self._next_said:
            if spaces != self._said:
                await self._arrived(0)  # batches that were encoded for fewer spaces
            await self._roster.say(self._settings.consumer, spaces)
            self._said, self._next_said = spaces, time.monotonic() + 5 * self._settings.scene_poll_s
        return encoders

    async def _read(self) -> list[Delivery]:
        """The next batch. It fills while another is on its way; an idle worker begins with what there is."""

        def busy() -> bool:
            return any(not task.done() for task in self._on_their_way)

        try:
            return await self._queue.read(self._stages.size.now, fill=busy)
        except Unavailable:
            await self._queue.open()  # a server that lost its data has lost the group too
            raise

    async def _send(self, deliveries: Sequence[Delivery]) -> None:
        """Begin with a batch; waits while too many are on their way. Raises what one of them raised."""
        if deliveries:
            await self._arrived(_ON_THEIR_WAY - 1)
            encoders = await self._patiently(self._source.current)
            self._on_their_way.append(asyncio.create_task(self._stages.work(deliveries, encoders)))
        while self._on_their_way and self._on_their_way[0].done():
            await self._on_their_way.popleft()

    async def _arrived(self, most: int) -> None:
        """Wait until at most so many batches are on their way."""
        while len(self._on_their_way) > most:
            await self._on_their_way[0]
            self._on_their_way.popleft()

    async def _take_over(self, min_idle_ms: int, *, own: bool = False) -> None:
        """Every entry left behind, one at a time.

        A claim is a delivery: none is made while the table does not answer, or an outage would use them up.
        """
        while not self._stop.is_set():
            await self._patiently(self._sequences.catch_up)
            left = await self._patiently(partial(self._abandoned, min_idle_ms, own))
            if left:
                await self._arrived(0)
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
        delivery = await self._patiently(partial(self._queue.claim, entry, min_idle_ms))
        if delivery is None:
            return
        self.metrics.reclaimed.inc()
        if delivery.deliveries > self._settings.max_deliveries:
            error = GaveUp(
                f"delivered {entry.deliveries} times without an end: it may kill whoever encodes it"
            )
            await self._stages.settle([Settlement(delivery, PushState.DEAD, error)])
        else:
            await self._stages.work([delivery], await self._patiently(self._source.current))
