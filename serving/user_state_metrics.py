"""The user states' Prometheus metrics, read from them when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.user_states import UserStates


class UserStateCollector(Collector):
    """No labels."""

    def __init__(self, states: UserStates) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        counts = self._states.counts()
        for name, words, value in (
            ("hits", "Requests whose user's state was in memory.", counts.hits),
            ("misses", "Requests whose user's state was computed.", counts.misses),
            ("evictions", "States that gave way to others.", counts.evictions),
        ):
            yield CounterMetricFamily(f"repcenter_user_state_{name}", words, value=value)
        for name, words, value in (
            ("resident", "States in memory.", counts.resident),
            ("resident_bytes", "Bytes of them, histories included.", counts.resident_bytes),
        ):
            yield GaugeMetricFamily(f"repcenter_user_state_{name}", words, value=value)
