"""Slow requests kept on disk with their record bytes, in a ring of bounded size.

`repcenter replay` scores them again.

observe() on the event loop compares one number; a thread writes, at most so many a minute. What does not fit
is counted and not kept.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from contracts.errors import shown
from param_server.whole_files import write_local
from serving.bucketed import uses_buckets
from serving.capture_file import Capture, encode_capture, this_build
from serving.scored import Scored
from serving.settings import ScorerSettings

log = logging.getLogger(__name__)
_WAITING = 8  # a captured request holds its rows until it is written
SUFFIX = ".capture"


class SlowRequests:
    """directory: made; several scorers may share it. kernels: whether this process computes with them."""

    def __init__(
        self, directory: Path, settings: ScorerSettings, registry: CollectorRegistry, *, kernels: bool
    ) -> None:
        if settings.capture_slow_ms is None:
            raise ValueError("capture_slow_ms is not set")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._slow_ms = settings.capture_slow_ms
        self._most_bytes = settings.capture_bytes
        self._every_s = 60.0 / settings.capture_per_minute
        self._next_at = 0.0
        self._build = this_build(settings.device, settings.threads, kernels, uses_buckets(settings))
        self._queue: queue.Queue[Scored | None] = queue.Queue(_WAITING)
        slow = Counter(
            "repcenter_slow_requests",
            "Requests that took longer than capture_slow_ms: captured, passed (too many at once) or failed.",
            ["outcome"],
            registry=registry,
        )
        self._captured, self._passed, self._failed = map(slow.labels, ("captured", "passed", "failed"))
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def observe(self, scored: Scored) -> None:
        """Take a slow request, at most one in a while."""
        if scored.scores.timings.total_ms < self._slow_ms:
            return
        now = time.monotonic()
        if now < self._next_at:
            self._passed.inc()
            return
        try:
            self._queue.put_nowait(scored)
        except queue.Full:
            self._passed.inc()
        else:
            self._next_at = now + self._every_s

    def close(self) -> None:
        """Write what waits."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (scored := self._queue.get()) is not None:
            try:
                self._write(scored)
            except Exception as error:  # a full disk, a directory that is gone: requests go on
                self._failed.inc()
                log.warning("slow request %s not captured: %s", shown(scored.request.request_id), error)
            else:
                self._captured.inc()

    def _write(self, scored: Scored) -> None:
        data = encode_capture(
            Capture(
                scored.request,
                scored.now_ms,
                scored.loaded.generation,
                scored.assembled.item_ids,
                scored.fetched,
                scored.scores.scores,
                scored.scores.timings,
                self._build,
            )
        )
        if len(data) > self._most_bytes:
            raise OSError(f"{len(data)} bytes exceed capture_bytes")
        self._make_room(len(data))
        digest = hashlib.sha256((scored.request.request_id or "").encode()).hexdigest()[:8]
        took = round(scored.scores.timings.total_ms)
        name = f"slow-{time.time_ns() // 1_000_000:013d}-{took}ms-{digest}{SUFFIX}"
        write_local(self._directory / name, memoryview(data))

    def _make_room(self, size: int) -> None:
        """Delete the oldest until `size` more bytes fit."""
        files = [(path, path.stat().st_size) for path in sorted(self._directory.glob(f"slow-*{SUFFIX}"))]
        total = sum(held for _, held in files) + size
        for path, held in files:
            if total <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= held
