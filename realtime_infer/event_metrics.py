"""Prometheus metrics of behaviour events. No label is an id."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

from contracts.errors import InvalidInput, RepcenterError
from contracts.events import Appended

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

    @contextmanager
    def call(
        self,
        operation: Operation,
        door: Literal["http", "grpc"],
        malformed: tuple[type[Exception], ...] = (),
    ) -> Iterator[None]:
        """Time and count one call, whatever comes of it. malformed: count as "invalid"."""
        began, outcome = time.perf_counter(), "internal"
        try:
            yield
            outcome = "ok"
        except RepcenterError as error:
            outcome = error.code
            raise
        except malformed:
            outcome = InvalidInput.code
            raise
        finally:
            self._calls.labels(operation, door, outcome).inc()
            self._seconds.labels(operation).observe(time.perf_counter() - began)
