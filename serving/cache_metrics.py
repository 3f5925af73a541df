"""The row cache's Prometheus metrics, read from it when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from param_server.cache import RowCache


class CacheCollector(Collector):
    """Labels: rows = content or id."""

    def __init__(self, cache: RowCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        counts, resident = self._cache.counts(), self._cache.resident()
        for name, words, values in (
            ("hits", "Rows given from memory.", counts.hits),
            ("misses", "Rows read from the tables.", counts.misses),
            ("evictions", "Rows that gave way to others.", counts.evictions),
        ):
            by_kind = CounterMetricFamily(f"repcenter_cache_{name}", words, labels=["rows"])
            for kind, value in values.items():
                by_kind.add_metric([kind], value)
            yield by_kind
        for name, words, value in (
            ("joins", "Rows that another request was reading already.", counts.joins),
            ("resyncs", "Times the window stream had gone on unseen and rows were dropped.", counts.resyncs),
            ("stale", "Answers from old rows while the tables were gone.", counts.stale),
        ):
            yield CounterMetricFamily(f"repcenter_cache_{name}", words, value=value)
        rows = GaugeMetricFamily("repcenter_cache_resident_rows", "Rows in memory.", labels=["rows"])
        size = GaugeMetricFamily(
            "repcenter_cache_resident_bytes", "Bytes of them, index and counters included.", labels=["rows"]
        )
        for kind, (count, total) in resident.items():
            rows.add_metric([kind], count)
            size.add_metric([kind], total)
        yield rows
        yield size
        yield GaugeMetricFamily(
            "repcenter_cache_lag_seconds",
            "Since cached content was last known to hold all of the window stream; +Inf: never yet.",
            value=self._cache.lag_s,
        )
