"""Steps that wait while a server is gone, and what a worker says about itself meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from contracts.errors import DeadlineExceeded, Overloaded, RepcenterError, Unavailable
from realtime_infer.metrics import WorkerMetrics

log = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
T = TypeVar("T")


class Stopped(Exception):
    """The worker was told to stop while a server was gone; what it held stays in the stream."""


class Patience:
    """Ready once begin() was called, while the last step went well. stop: set when the worker is to end."""

    def __init__(self, stop: asyncio.Event, metrics: WorkerMetrics) -> None:
        self._stop = stop
        self._metrics = metrics
        self._not_ready: RepcenterError = Unavailable("the worker is starting")
        self._begun = self.ready = False

    def begin(self) -> None:
        """The encoder is proven."""
        self._begun = True

    def end(self) -> None:
        """The worker does nothing any more."""
        self._say(False, Unavailable("the worker has stopped"))

    def check(self) -> None:
        """Nothing while ready, else Unavailable that says why not."""
        if not self.ready:
            raise Unavailable(str(self._not_ready))

    async def __call__(self, step: Callable[[], Awaitable[T]]) -> T:
        """A step, again and again while a server is gone; every step is idempotent. Stopped on stop."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                result = await step()
            except (Unavailable, DeadlineExceeded, Overloaded) as error:
                log.warning("waiting: %s", error)
                self._metrics.retries.inc()
                self._say(False, error)
            else:
                self._say(self._begun)
                return result
            try:
                await asyncio.wait_for(self._stop.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                raise Stopped

    def _say(self, ready: bool, why: RepcenterError | None = None) -> None:
        self.ready = ready
        self._not_ready = why or self._not_ready
        self._metrics.ready.set(ready)
