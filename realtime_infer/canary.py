"""The golden inputs of the encoders in use, replayed again and again: memory, a driver or a device may go bad
long after an encoder was proven."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from contracts.errors import BrokenBundle, Unavailable
from realtime_infer.encoder import Encoder

log = logging.getLogger(__name__)


class Canary:
    """every_s: between two replays; most_failures: in a row, then watch() gives up; 0: never."""

    def __init__(self, every_s: float, most_failures: int, registry: CollectorRegistry) -> None:
        self._every_s = every_s
        self._most = most_failures
        self._error: BrokenBundle | None = None
        self._ok = Gauge("repcenter_canary_ok", "1 while the last golden replay matched.", registry=registry)
        self._difference = Gauge(
            "repcenter_canary_difference",
            "Largest difference of the last replay that matched.",
            registry=registry,
        )
        self._failures = Counter(
            "repcenter_canary_failures_total", "Golden replays that did not match.", registry=registry
        )

    def check(self) -> None:
        """Unavailable from a replay that did not match until one does."""
        if self._error is not None:
            raise Unavailable(f"canary: {self._error}")

    async def watch(self, encoders: Callable[[], Sequence[Encoder]]) -> None:
        """Replay until cancelled. encoders: those in use now, proven when they were opened.

        Raises BrokenBundle after most_failures.
        """
        failures = 0
        self._ok.set(1)
        while True:
            await asyncio.sleep(self._every_s)
            try:
                for encoder in encoders():
                    self._difference.set(await asyncio.to_thread(encoder.check))
            except BrokenBundle as error:
                failures += 1
                self._failures.inc()
                self._error = error
                log.error("canary, %d in a row: %s", failures, error)
                if failures == self._most:
                    raise
            else:
                failures, self._error = 0, None
            self._ok.set(self._error is None)
