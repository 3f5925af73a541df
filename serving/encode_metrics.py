"""Prometheus metrics of what requests brought and an encoder was asked for. No label is an id."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.errors import RepcenterError

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class EncodeMetrics:
    """One per process."""

    def __init__(self, registry: CollectorRegistry, given_up: Callable[[], bool]) -> None:
        """given_up: whether the breaker before the encoder is open."""
        breaker = Gauge(
            "repcenter_encode_on_miss_breaker_open",
            "1 while the encoder is not asked, because it had not answered; one call in a while tries it.",
            registry=registry,
        )
        breaker.set_function(given_up)
        results = Counter(
            "repcenter_encode_on_miss",
            "Contents that requests needed encoded, of items and queries: encoded, failed, cached, or joined "
            "to a call that was on its way.",
            ["result"],
            registry=registry,
        )
        self._encoded, self._failed, self.cached, self.joined = map(
            results.labels, ("encoded", "failed", "cached", "joined")
        )
        self._failures = Counter(
            "repcenter_encode_on_miss_failures",
            "Contents that were not encoded, by the error's code.",
            ["code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "repcenter_encode_on_miss_duration_seconds",
            "Calls to the encoder.",
            registry=registry,
            buckets=_BUCKETS_S,
        )
        self.waiting = Gauge(
            "repcenter_encode_on_miss_waiting",
            "Contents that the encoder is asked for now.",
            registry=registry,
        )

    def encoded(self) -> None:
        """A content has its vectors from a call."""
        self._encoded.inc()

    def failed(self, error: RepcenterError) -> None:
        """A content that was asked for has none."""
        self._failed.inc()
        self._failures.labels(error.code).inc()
