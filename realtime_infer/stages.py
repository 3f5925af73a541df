"""One batch through its stages: prepare, encode, commit, announce, settle; in that order, so nothing is lost.

Several batches may be on their way, each in another stage: while the graphs run on one, the next is fetched,
decoded and tokenised, and the one before is committed. Each passes a stage in the order in which it began.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import numpy as np

from contracts.codec import Rows
from contracts.errors import Conflict
from contracts.items import Item
from contracts.window import Window
from param_server.store import Store
from param_server.windows import Windows
from realtime_infer.batch import Batch, SpaceBatch, SpaceResult, encode, ends_of, open_batch, reusable
from realtime_infer.batch_size import BatchSize
from realtime_infer.delivery import Delivery, Made, Settlement
from realtime_infer.encoder import Encoder
from realtime_infer.metrics import WorkerMetrics
from realtime_infer.patience import Patience
from realtime_infer.pictures import Pictures, decode_here
from realtime_infer.push_entry import ITEM_ID, SEQUENCE
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.sequences import Sequences
from realtime_infer.settings import EncoderSettings

log = logging.getLogger(__name__)
Decode = Callable[[Sequence[Item], tuple[int, int]], Awaitable[Pictures]]


async def decode_in_a_thread(items: Sequence[Item], size: tuple[int, int]) -> Pictures:
    """Pictures decoded by this process. size: (height, width)."""
    return await asyncio.to_thread(decode_here, items, size)


class Stages:
    """What batches pass. decode: what items say of their pictures -> pixels, beside the model; size: learns
    from the encoding."""

    def __init__(
        self,
        queue: PushQueue,
        windows: Windows,
        store: Store,
        sequences: Sequences,
        settings: EncoderSettings,
        metrics: WorkerMetrics,
        patiently: Patience,
        decode: Decode = decode_in_a_thread,
    ) -> None:
        self._queue = queue
        self._windows = windows
        self._store = store
        self._sequences = sequences
        self._settings = settings
        self._metrics = metrics
        self._patiently = patiently
        self._decode = decode
        self.size = BatchSize(settings.batch_size, settings.batch_ms / 1000)
        self._preparing, self._encoding, self._ending = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()

    async def work(self, deliveries: Sequence[Delivery], encoders: Sequence[Encoder]) -> None:
        """One batch through its stages. A lock is handed on in the order in which it was asked for."""
        self._metrics.batch(len(deliveries))
        async with self._preparing:
            with self._metrics.stage("prepare"):
                batch, spaces = await self._prepare(deliveries, encoders)
        async with self._encoding:
            began = time.perf_counter()
            with self._metrics.stage("encode"):
                results = [await asyncio.to_thread(self._encode, space, batch) for space in spaces]
            self.size.took(max(len(space.rest) for space in spaces), time.perf_counter() - began)
            self._metrics.batch_limit.set(self.size.now)
        async with self._ending:
            await self._end(batch, spaces, results)

    async def _prepare(
        self, deliveries: Sequence[Delivery], encoders: Sequence[Encoder]
    ) -> tuple[Batch, list[SpaceBatch]]:
        made = await self._patiently(partial(self._queue.encoding, deliveries))
        fetched = await self._patiently(partial(self._queue.fetch, deliveries))
        batch = await asyncio.to_thread(open_batch, fetched)
        spaces, decoded = [], dict[tuple[tuple[int, int], bytes], Pictures]()
        for encoder in encoders:
            reused = await self._patiently(partial(self._reused, batch, made, encoder))
            rest = np.setdiff1d(np.arange(len(batch.pushes)), np.array(sorted(reused), np.int64))
            items = [batch.pushes[i].item for i in rest.tolist()]
            key = encoder.picture_size, rest.tobytes()
            if key not in decoded:
                decoded[key] = await self._patiently(partial(self._decode, items, encoder.picture_size))
            prepared = await asyncio.to_thread(encoder.prepare, items, decoded[key])
            spaces.append(SpaceBatch(encoder, reused, rest, prepared))
        return batch, spaces

    async def _reused(self, batch: Batch, made: Mapping[str, Made], encoder: Encoder) -> dict[int, Rows]:
        """Records of pushes whose content did not change, by position."""
        unchanged = batch.unchanged(made)
        if not unchanged:
            return {}
        distinct = list(dict.fromkeys(batch.pushes[i].item.item_id for i in unchanged))
        fetched = await self._store.fetch(encoder.space, None, distinct)
        row = {item_id: at for at, item_id in enumerate(distinct)}
        stored = fetched.records[[row[batch.pushes[i].item.item_id] for i in unchanged]]
        return reusable(batch, unchanged, made, stored)

    def _encode(self, space: SpaceBatch, batch: Batch) -> SpaceResult:
        return encode(space, batch, self._settings.batch_tokens, self._settings.batch_pixels)

    async def _end(self, batch: Batch, spaces: Sequence[SpaceBatch], results: Sequence[SpaceResult]) -> None:
        """Commit and announce in every space, the live one first, then settle."""
        committed: list[tuple[Window, Window]] = []
        lost: dict[str, int] = {}
        for result in results:
            window = result.window
            self._metrics.encoded(window)
            if window.item_ids:
                with self._metrics.stage("commit"):
                    held = await self._patiently(partial(self._windows.commit, window))
                with self._metrics.stage("announce"):
                    await self._patiently(partial(self._windows.announce, held))
                lost |= await self._patiently(partial(self._sequences.lost_to_another_count, window, held))
                committed.append((window, held))
        self._metrics.unchanged.inc(sum(len(space.reused) for space in spaces))
        for result in results[1:]:
            missing = result.failures.keys() - results[0].failures.keys()
            self._metrics.not_prepared.inc(len(missing))
            for i in sorted(missing):
                log.warning("space %s: %s", result.window.space.id, result.failures[i])
        await self.settle(_without_lost(ends_of(batch, results[0].failures, committed), lost))

    async def settle(self, ends: Sequence[Settlement]) -> None:
        with self._metrics.stage("settle"):
            trimmed = await self._patiently(partial(self._queue.settle, ends))
        if trimmed:
            self._metrics.trimmed.inc(trimmed)
            log.warning(
                "%d dead letters had to go for newer ones (max_dead_letters, max_dead_bytes)", trimmed
            )
        for end in ends:
            self._metrics.settled(end.state, end.error.code if end.error else "", end.delivery.pushed_ms)
            if end.state is PushState.DEAD:
                log.warning("dead letter %s: %s", end.delivery.entry_id.decode(), end.error)


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
