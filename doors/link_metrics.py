"""How the servers behind a process answer, as Prometheus metrics: read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATES = ("closed", "half-open", "open")


class Counts(Protocol):
    """Of one link so far."""

    @property
    def retries(self) -> int: ...
    @property
    def retries_refused(self) -> int: ...
    @property
    def waits(self) -> int: ...
    @property
    def wait_s(self) -> float: ...
    @property
    def pool_busy(self) -> int: ...


class Link(Protocol):
    """The way to one server. state: of its breaker, one of closed, half-open, open; opened: how often."""

    @property
    def state(self) -> str: ...
    @property
    def opened(self) -> int: ...
    @property
    def counts(self) -> Counts: ...


class LinkMetrics(Collector):
    """What `watch` was given; registered once, before there is anything to tell."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._watched: dict[str, Callable[[], Sequence[Link]]] = {}
        registry.register(self)

    def watch(self, server: str, links: Callable[[], Sequence[Link]]) -> None:
        """server: its role, such as "tables" or "streams", never an address; links: to it, or to each node
        of a cluster, whose names get a number."""
        self._watched[server] = links

    @property
    def _links(self) -> dict[str, Link]:
        found = {server: links() for server, links in self._watched.items()}
        return {
            f"{server}-{i}" if len(links) > 1 else server: link
            for server, links in found.items()
            for i, link in enumerate(links, 1)
        }

    def collect(self) -> Iterator[Metric]:
        """One sample per server and metric."""
        state = GaugeMetricFamily(
            "repcenter_breaker_state",
            "1 for the state that the breaker before a server is in: closed, half-open, open.",
            labels=["server", "state"],
        )
        for server, link in self._links.items():
            for name in _STATES:
                state.add_metric([server, name], float(link.state == name))
        yield state
        yield self._counter("repcenter_breaker_opened", "Times that a breaker opened.", "opened")
        counters = (
            ("repcenter_redis_retries", "Calls made again because their connection was lost.", "retries"),
            ("repcenter_redis_retries_refused", "Likewise, but not within the budget.", "retries_refused"),
            ("repcenter_pool_waits", "Calls that found all connections busy.", "waits"),
            ("repcenter_pool_wait_seconds", "Seconds that they waited.", "wait_s"),
            ("repcenter_pool_busy", "Of them, those that waited in vain.", "pool_busy"),
        )
        for name, text, field in counters:
            yield self._counter(name, text, field)

    def _counter(self, name: str, text: str, field: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=["server"])
        for server, link in self._links.items():
            value = link.opened if field == "opened" else getattr(link.counts, field)
            family.add_metric([server], float(value))
        return family
