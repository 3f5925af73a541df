"""Items to vectors while the caller waits: admitted early or not at all, encoded together, given up in time.

A request is refused at once where its items are too many for what waits already, or where that would take
longer than its deadline. Its pictures are fetched and decoded, its texts tokenised; then it joins the batch
that runs next. An idle encoder waits a moment for company, never longer than the nearest deadline allows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.errors import DeadlineExceeded, InvalidInput, Overloaded, RepcenterError, TooLarge
from contracts.items import Item
from realtime_infer.encode_metrics import EncodeMetrics
from realtime_infer.encoder import Encoded, Encoder, Prepared, join
from realtime_infer.isolate import vectors_isolated
from realtime_infer.pictures import Pictures
from realtime_infer.settings import EncoderSettings

Load = Callable[[Sequence[Item], tuple[int, int]], Awaitable[Pictures]]
_LEARN = 0.2


@dataclass(frozen=True)
class ItemVectors:
    """Of one item: (d,) float32 by modality, those that it has; flagged: modalities that lose too much when
    they are quantised; record: the bytes that a push would store, with sequence 0."""

    vectors: dict[str, npt.NDArray[np.float32]]
    flagged: list[str]
    record: bytes


@dataclass(frozen=True)
class Vectors:
    """K items encoded. encoded: at positions 0 to K; records: (G,) of the good ones, with sequence 0."""

    encoder: Encoder
    encoded: Encoded
    records: Rows

    def items(self) -> Iterator[ItemVectors | RepcenterError]:
        """Each item's vectors, or why it has none."""
        names, rows = [m.name for m in self.encoder.space.modalities], iter(self.records)
        for i in range(len(self.encoded.attributes)):
            if (error := self.encoded.failures.get(i)) is not None:
                yield error
                continue
            row = next(rows)
            blocks = zip(names, self.encoded.vectors, strict=True)
            there = {name: block[i] for name, block in blocks if block[i].any()}
            marked = [name for m, name in enumerate(names) if int(row["guard"]) >> m & 1]
            yield ItemVectors(there, marked, row.tobytes())


@dataclass(frozen=True)
class _Job:
    encoder: Encoder
    prepared: Prepared
    deadline: float
    answer: asyncio.Future[Vectors]


class EncodeQueue:
    """source: the encoder to use now; load: pictures of items -> pixels, in processes of their own."""

    def __init__(
        self,
        source: Callable[[], Awaitable[Encoder]],
        load: Load,
        settings: EncoderSettings,
        metrics: EncodeMetrics,
    ) -> None:
        self._source = source
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._items = self._bytes = 0
        self._waiting: deque[_Job] = deque()
        self._came = asyncio.Event()
        self._item_s = 0.0  # what one item took in the last batches

    async def encode(self, items: Sequence[Item], deadline_s: float | None = None) -> Vectors:
        """The vectors of K items, failures by position.

        Raises InvalidInput, TooLarge, Overloaded (at once), DeadlineExceeded, Unavailable (no encoder yet),
        BrokenBundle (the encoder fails on its golden inputs).
        """
        limit_s = self._settings.encode_deadline_s if deadline_s is None else deadline_s
        if not items:
            raise InvalidInput("items", 0, "must not be empty")
        if len(items) > self._settings.max_encode_request:
            raise TooLarge("items", len(items), self._settings.max_encode_request, "items")
        with self._place(items, limit_s):
            try:
                async with asyncio.timeout(limit_s):
                    vectors = await self._encode(items, time.monotonic() + limit_s)
            except TimeoutError as error:
                raise DeadlineExceeded(f"{len(items)} items were not encoded in {limit_s:g} s") from error
        for failure in vectors.encoded.failures.values():
            self._metrics.failed(failure)
        return vectors

    async def run(self) -> None:
        """Encode what comes, until cancelled."""
        while True:
            jobs = await self._next()
            if not jobs:
                continue
            try:
                answers = await asyncio.to_thread(self._run, jobs)
            except Exception as error:
                for job in jobs:
                    if not job.answer.done():
                        job.answer.set_exception(error)
            else:
                for job, answer in zip(jobs, answers, strict=True):
                    if not job.answer.done():
                        job.answer.set_result(answer)

    @contextmanager
    def _place(self, items: Sequence[Item], limit_s: float) -> Iterator[None]:
        settings, count = self._settings, len(items)
        size = sum(len(item.image or b"") for item in items)
        wait_s = self._item_s * (self._items + count)
        if self._items and self._items + count > settings.max_encode_items:
            raise Overloaded(f"{self._items} items wait to be encoded", max(0.05, wait_s))
        if self._items and self._bytes + size > settings.max_encode_bytes:
            raise Overloaded(f"pictures of {self._bytes} bytes wait to be encoded", max(0.05, wait_s))
        if self._items and wait_s > limit_s:
            raise Overloaded(
                f"{self._items} items wait, which takes {wait_s:.2g} s; the deadline is {limit_s:g} s", wait_s
            )
        self._items, self._bytes = self._items + count, self._bytes + size
        self._metrics.waiting.set(self._items)
        try:
            yield
        finally:
            self._items, self._bytes = self._items - count, self._bytes - size
            self._metrics.waiting.set(self._items)

    async def _encode(self, items: Sequence[Item], deadline: float) -> Vectors:
        encoder = await self._source()
        with self._metrics.stage("prepare"):
            pictures = await self._load(items, encoder.picture_size)
            prepared = await asyncio.to_thread(encoder.prepare, items, pictures)
        answer: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(encoder, prepared, deadline, answer))
        self._came.set()
        with self._metrics.stage("wait_and_run"):
            return await answer

    async def _next(self) -> list[_Job]:
        """The jobs of the next batch: of one encoder, in order, those that nobody waits for left out."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
            await self._company()
        jobs, count = list[_Job](), 0
        while self._waiting:
            job = self._waiting[0]
            if job.answer.done():
                self._waiting.popleft()
                continue
            if jobs and (
                job.encoder is not jobs[0].encoder or count + len(job.prepared) > self._settings.encode_batch
            ):
                break
            jobs.append(self._waiting.popleft())
            count += len(job.prepared)
        return jobs

    async def _company(self) -> None:
        """Wait for more items, at most for the window, and not so long that a deadline is missed."""
        end = time.monotonic() + self._settings.encode_window_ms / 1000
        while sum(len(job.prepared) for job in self._waiting) < min(self._settings.encode_batch, self._items):
            nearest = min(job.deadline for job in self._waiting)
            left = min(end, nearest - self._item_s * self._settings.encode_batch) - time.monotonic()
            if left <= 0:
                return
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except TimeoutError:
                return

    def _run(self, jobs: Sequence[_Job]) -> list[Vectors]:
        encoder, began = jobs[0].encoder, time.perf_counter()
        encoded = vectors_isolated(encoder, join([job.prepared for job in jobs]))
        answers, start = list[Vectors](), 0
        for job in jobs:
            stop = start + len(job.prepared)
            part = Encoded(
                [block[start:stop] for block in encoded.vectors],
                encoded.attributes[start:stop],
                {i - start: error for i, error in encoded.failures.items() if start <= i < stop},
            )
            answers.append(Vectors(encoder, part, encoder.records(part, np.zeros(stop - start, np.uint64))))
            start = stop
        spent = time.perf_counter() - began
        self._metrics.batch(start, spent)
        self._item_s += (spent / start - self._item_s) * (_LEARN if self._item_s else 1.0)
        return answers
