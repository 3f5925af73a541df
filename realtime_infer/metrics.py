"""Prometheus metrics of the write door and of the worker, each in its own registry. No label is an id."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from contracts.codec import is_tombstone
from contracts.errors import RepcenterError
from contracts.guard import Loss, flagged
from contracts.space import Space
from contracts.window import Window
from doors.link_metrics import LinkMetrics
from doors.outcome import outcome_of
from realtime_infer.ingest import Backlog
from realtime_infer.push_status import Receipt

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
Operation = Literal["push", "delete"]
Door = Literal["http", "grpc"]
Stage = Literal["prepare", "encode", "commit", "announce", "settle"]


class DoorMetrics:
    """One per write door."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.links = LinkMetrics(self.registry)
        self._accepts = Counter(
            "repcenter_push_total",
            "Pushes and deletions by operation, door and outcome (accepted, or the error's code).",
            ["operation", "door", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "repcenter_push_duration_seconds",
            "From the parsed request to the receipt, fsync included.",
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self.replayed = Counter(
            "repcenter_push_replayed_total",
            "Pushes and deletions whose idempotency key was known: the earlier receipt was given again.",
            registry=self.registry,
        )
        self._group = Histogram(
            "repcenter_push_group_entries",
            "Pushes and deletions that went to the stream's server in one round trip.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        )
        self._entries = Gauge(
            "repcenter_backlog_entries", "Accepted pushes without an end.", registry=self.registry
        )
        self._bytes = Gauge(
            "repcenter_backlog_bytes", "Payload bytes of the backlog.", registry=self.registry
        )
        self._age = Gauge(
            "repcenter_backlog_age_seconds",
            "How long the oldest of the backlog waits.",
            registry=self.registry,
        )

    def group(self, pushes: int) -> None:
        self._group.observe(pushes)

    def accept(
        self,
        operation: Operation,
        door: Door,
        malformed: tuple[type[Exception], ...] = (),
    ) -> AbstractContextManager[None]:
        """Time and count one push or deletion, whatever comes of it. malformed: count as "invalid"."""

        def ended(outcome: str, seconds: float) -> None:
            self._accepts.labels(operation, door, outcome).inc()
            self._seconds.observe(seconds)

        return outcome_of(ended, "accepted", malformed)

    def outcome(self, operation: Operation, door: Door, result: Receipt | Exception) -> None:
        """Count one of an upload of many."""
        outcome = "invalid"
        if isinstance(result, Receipt):
            outcome = "accepted"
            self.replayed.inc(result.replayed)
        elif isinstance(result, RepcenterError):
            outcome = result.code
        self._accepts.labels(operation, door, outcome).inc()

    def expose(self, backlog: Backlog | None) -> bytes:
        """The Prometheus text format; backlog: None where the stream does not answer (then NaN)."""
        self._entries.set(backlog.entries if backlog else float("nan"))
        self._bytes.set(backlog.payload_bytes if backlog else float("nan"))
        self._age.set(backlog.age_s if backlog else float("nan"))
        return generate_latest(self.registry)


class WorkerMetrics:
    """One per worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.links = LinkMetrics(self.registry)
        self.ready = Gauge(
            "repcenter_worker_ready",
            "1 while the encoder's golden replay has passed and the stream is readable.",
            registry=self.registry,
        )
        self._batch = Histogram(
            "repcenter_batch_entries",
            "Entries per micro-batch.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096),
        )
        self._stages = Histogram(
            "repcenter_worker_stage_seconds",
            "Time of a micro-batch by stage.",
            ["stage"],
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self._settled = Counter(
            "repcenter_settled_total",
            "Pushes that came to an end, by state and error code.",
            ["state", "code"],
            registry=self.registry,
        )
        self._freshness = Histogram(
            "repcenter_push_to_scoreable_seconds",
            "From the acceptance by the stream's server to the record in the table.",
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self.reclaimed = Counter(
            "repcenter_reclaimed_total",
            "Entries taken over from a worker that held them too long.",
            registry=self.registry,
        )
        self._rows = Counter(
            "repcenter_rows_total", "Records encoded, deletions not counted.", registry=self.registry
        )
        self._flagged = Counter(
            "repcenter_rows_flagged_total",
            "Records that lost too much when they were quantised (contracts.guard), by modality.",
            ["modality"],
            registry=self.registry,
        )
        self._error = Counter(
            "repcenter_quantisation_error_total",
            "Sum over records of 1 - cosine between a vector and what is stored of it, by modality.",
            ["modality"],
            registry=self.registry,
        )
        self._worst = Gauge(
            "repcenter_quantisation_error_worst",
            "The largest of them in the last batch.",
            ["modality"],
            registry=self.registry,
        )
        self.unchanged = Counter(
            "repcenter_unchanged_total",
            "Records written again under a newer sequence because the content was the same.",
            registry=self.registry,
        )
        self.not_prepared = Counter(
            "repcenter_preparing_failures_total",
            "Pushes that could not be encoded for a space in preparation.",
            registry=self.registry,
        )
        self.batch_limit = Gauge(
            "repcenter_batch_limit", "Most entries that a micro-batch takes now.", registry=self.registry
        )
        self.decoders_died = Counter(
            "repcenter_decoders_died_total", "Processes that died while they decoded.", registry=self.registry
        )
        self.trimmed = Counter(
            "repcenter_dead_letters_trimmed_total",
            "Dead letters that had to go for newer ones.",
            registry=self.registry,
        )
        self.retries = Counter(
            "repcenter_worker_retries_total", "Steps tried again after an error.", registry=self.registry
        )

    def batch(self, entries: int) -> None:
        self._batch.observe(entries)

    def lost(self, space: Space, loss: Loss) -> None:
        """What quantising took from a batch."""
        for m, modality in enumerate(space.modalities):
            self._error.labels(modality.name).inc(float(loss.cosine_error[:, m].sum()))
            self._worst.labels(modality.name).set(float(loss.cosine_error[:, m].max()))

    def encoded(self, window: Window) -> None:
        """Count the records of a window and those that the guard flagged."""
        self._rows.inc(int((~is_tombstone(window.records)).sum()))
        for name, count in flagged(window.records, [m.name for m in window.space.modalities]).items():
            self._flagged.labels(name).inc(count)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time one stage of a batch."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(stage).observe(time.perf_counter() - began)

    def settled(self, state: str, code: str, pushed_ms: int) -> None:
        """One push came to its end now."""
        self._settled.labels(state, code).inc()
        if state == "scoreable":
            self._freshness.observe(max(0.0, time.time() - pushed_ms / 1000))

    def expose(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
