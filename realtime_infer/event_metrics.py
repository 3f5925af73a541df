"""Prometheus metrics of behaviour events. No label is an id."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

from contracts.events import Appended
from doors.outcome import outcome_of

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
Operation = Literal["append", "forget"]


class EventMetrics:
    """One per write door, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "repcenter_event_calls_total",
            "Calls with events and deletions of users, by door and outcome (ok, or the error's code).",
            ["operation", "door", "outcome"],
            registry=registry,
        )
        self._events = Counter(
            "repcenter_events_total",
            "Accepted events by what became of them: appended, duplicates, too_old, forgotten, ignored.",
            ["became"],
            registry=registry,
        )
        self._seconds = Histogram(
            "repcenter_event_call_duration_seconds",
            "From the beginning of a call to its answer, fsync included.",
            ["operation"],
            registry=registry,
            buckets=_BUCKETS_S,
        )

    def appended(self, found: Appended) -> None:
        for became, count in asdict(found).items():
            self._events.labels(became).inc(count)

    def call(
        self,
        operation: Operation,
        door: Literal["http", "grpc"],
        malformed: tuple[type[Exception], ...] = (),
    ) -> AbstractContextManager[None]:
        """Time and count one call, whatever comes of it. malformed: count as "invalid"."""

        def ended(outcome: str, seconds: float) -> None:
            self._calls.labels(operation, door, outcome).inc()
            self._seconds.labels(operation).observe(seconds)

        return outcome_of(ended, "ok", malformed)
