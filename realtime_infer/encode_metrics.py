"""Prometheus metrics of an encoder that answers while its caller waits. No label is an id."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from contracts.errors import RepcenterError
from doors.link_metrics import LinkMetrics
from doors.outcome import outcome_of

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class EncodeMetrics:
    """One per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.links = LinkMetrics(self.registry)
        self.ready = Gauge(
            "repcenter_encoder_ready",
            "1 while an encoder is open and matches its golden outputs.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "repcenter_encode_waiting_items", "Items that wait or run.", registry=self.registry
        )
        self.decoders_died = Counter(
            "repcenter_decoders_died_total", "Decoders that died of a picture.", registry=self.registry
        )
        self._calls = Counter(
            "repcenter_encode_total",
            "Requests by door and outcome (encoded, or the error's code).",
            ["door", "outcome"],
            registry=self.registry,
        )
        self._failures = Counter(
            "repcenter_encode_failures_total", "Items that failed, by code.", ["code"], registry=self.registry
        )
        self._seconds = Histogram(
            "repcenter_encode_duration_seconds",
            "From the parsed request to its answer.",
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self._stages = Histogram(
            "repcenter_encode_stage_seconds",
            "Of it: pictures and tokens; then the wait for a batch and its run.",
            ["stage"],
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self._batch = Histogram(
            "repcenter_encode_batch_items",
            "Items per run of the graphs.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        )
        self._run = Histogram(
            "repcenter_encode_run_seconds",
            "Runs of the graphs.",
            registry=self.registry,
            buckets=_BUCKETS_S,
        )

    def call(
        self, door: Literal["http", "grpc"], malformed: tuple[type[Exception], ...] = ()
    ) -> AbstractContextManager[None]:
        """Time and count one request, whatever comes of it. malformed: count as "invalid"."""

        def ended(outcome: str, seconds: float) -> None:
            self._calls.labels(door, outcome).inc()
            self._seconds.observe(seconds)

        return outcome_of(ended, "encoded", malformed)

    @contextmanager
    def stage(self, stage: Literal["prepare", "wait_and_run"]) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(stage).observe(time.perf_counter() - began)

    def batch(self, items: int, spent_s: float) -> None:
        """One run of the graphs."""
        self._batch.observe(items)
        self._run.observe(spent_s)

    def failed(self, error: RepcenterError) -> None:
        """One item of a request."""
        self._failures.labels(error.code).inc()

    def expose(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
