"""Ready or not, from one place for both doors and the metrics."""

from __future__ import annotations

import asyncio

from contracts.errors import RepcenterError, Unavailable
from serving.live import LiveGenerations
from serving.metrics import Metrics

_PROBE_S = 1.0


class Readiness:
    """Ready: every scene is loaded, the store answers, and the process is not draining."""

    def __init__(self, live: LiveGenerations, metrics: Metrics) -> None:
        self._live = live
        self._metrics = metrics
        self.draining = False

    async def check(self) -> None:
        """Nothing when ready, Unavailable with the reason otherwise."""
        try:
            if self.draining:
                raise Unavailable("the scorer is draining before it stops")
            async with asyncio.timeout(_PROBE_S):
                await self._live.check()
        except TimeoutError as error:
            self._metrics.ready.set(0)
            raise Unavailable(f"the store did not answer within {_PROBE_S:g} s") from error
        except Unavailable:
            self._metrics.ready.set(0)
            raise
        except RepcenterError as error:
            self._metrics.ready.set(0)
            raise Unavailable(str(error)) from error
        self._metrics.ready.set(1)

    async def is_ready(self) -> bool:
        try:
            await self.check()
        except Unavailable:
            return False
        return True
