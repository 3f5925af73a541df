"""A space's files merged now and then, beside the windows that are being written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from contracts.space import Space
from param_server.compaction import compact
from param_server.offline import OfflineTable
from realtime_infer.sink_metrics import SinkMetrics
from realtime_infer.sink_settings import SinkSettings

log = logging.getLogger(__name__)


class Compactions:
    """At most one at a time, every sink_compact_s seconds. stopped: asked between files."""

    def __init__(
        self,
        offline: OfflineTable,
        space: Space,
        settings: SinkSettings,
        metrics: SinkMetrics,
        stopped: Callable[[], bool],
    ) -> None:
        self._offline, self._space, self._stopped = offline, space, stopped
        self._settings, self._metrics = settings, metrics
        self._running: asyncio.Task[None] | None = None
        self._next = time.monotonic() + settings.sink_compact_s

    def begin_when_due(self) -> None:
        """Does not wait for its end."""
        if not self._settings.sink_compact_s or time.monotonic() < self._next:
            return
        if self._running is None or self._running.done():
            self._next = time.monotonic() + self._settings.sink_compact_s
            self._running = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Wait for one that runs."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        settings, horizon = self._settings, None
        if settings.sink_keep_versions_s is not None:
            horizon = time.time_ns() // 1_000_000 - 1000 * settings.sink_keep_versions_s
        try:
            report = await asyncio.to_thread(
                compact,
                self._offline,
                self._space,
                most_bytes=settings.sink_compact_bytes,
                horizon_ms=horizon,
                stopped=self._stopped,
            )
        except Exception:  # what it left is whole; the windows must go on
            log.exception("space %s could not be compacted", self._space.id)
            return
        if report.written:
            self._metrics.compactions.labels(self._space.id).inc()
