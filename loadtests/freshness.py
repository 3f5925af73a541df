"""How long after a push a score through the scorer's door says `ok`: an open loop of pushes.

Pushes start when they are due, whether or not earlier ones have answered, and their time counts from then.
All items that were pushed and do not score yet are asked for together, again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from contracts.errors import RepcenterError
from contracts.items import Item
from contracts.request import ScoreRequest
from contracts.scores import OK
from serving.client import GrpcClient, HttpClient

Client = HttpClient | GrpcClient
Progress = Callable[[int, int], None]  # items that score, items in all

_BETWEEN_LOOKS_S = 0.002
_MOST_ASKED = 400  # candidates of one look, the oldest first
_LAST_S = 30.0  # for the last items to score


@dataclass
class Freshness:
    """latencies_ms: from the intended start of a push until its item scores; late_ms: how late each push
    left; receipt_ms: from then to its receipt; errors: pushes and looks that failed, by code; unseen: items
    that did not score in time."""

    latencies_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    receipt_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    unseen: int = 0
    looks: int = 0
    seconds: float = 0.0


async def push_and_watch(
    door: Client, scorer: Client, items: Sequence[Item], rate: float, seed: int, progress: Progress
) -> Freshness:
    """Push items of new ids at Poisson moments, `rate` per second; watch each until it scores."""
    run = _Run(door, scorer, len(items), progress)
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=len(items))
    begin = time.perf_counter() + 0.05
    watching = asyncio.create_task(run.watch())
    pushing: list[asyncio.Task[None]] = []
    for due, item in zip((begin + np.cumsum(gaps)).tolist(), items, strict=True):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        pushing.append(asyncio.create_task(run.push(item, due)))
    await asyncio.gather(*pushing)
    run.out.seconds = time.perf_counter() - begin
    run.all_pushed = True
    run.last = time.perf_counter() + _LAST_S
    await watching
    return run.out


class _Run:
    def __init__(self, door: Client, scorer: Client, total: int, progress: Progress) -> None:
        self._door, self._scorer, self._total, self._progress = door, scorer, total, progress
        self._waiting: dict[str, float] = {}  # pushed, not scoring yet -> when it was due
        self.out = Freshness()
        self.all_pushed = False
        self.last = float("inf")

    async def push(self, item: Item, due: float) -> None:
        began = time.perf_counter()
        self.out.late_ms.append((began - due) * 1e3)
        self._waiting[item.item_id] = due
        try:
            await self._door.push(item)
        except RepcenterError as error:
            self.out.errors[error.code] += 1
            self._waiting.pop(item.item_id, None)
        else:
            self.out.receipt_ms.append((time.perf_counter() - began) * 1e3)

    async def watch(self) -> None:
        """Until everything that was pushed scores, or the time is up."""
        while self._waiting or not self.all_pushed:
            if self._waiting:
                await self._look(list(self._waiting)[:_MOST_ASKED])
            if time.perf_counter() > self.last:
                break
            await asyncio.sleep(_BETWEEN_LOOKS_S)
        self.out.unseen = len(self._waiting)

    async def _look(self, item_ids: Sequence[str]) -> None:
        self.out.looks += 1
        try:
            scores = await self._scorer.score(ScoreRequest(item_ids))
        except RepcenterError as error:
            self.out.errors[f"score_{error.code}"] += 1
            return
        now = time.perf_counter()
        for at in np.flatnonzero(scores.statuses == OK).tolist():
            due = self._waiting.pop(item_ids[at], None)
            if due is not None:
                self.out.latencies_ms.append((now - due) * 1e3)
        self._progress(len(self.out.latencies_ms), self._total)
