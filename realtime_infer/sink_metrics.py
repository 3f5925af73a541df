"""Prometheus metrics of the sink, by space."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from doors.link_metrics import LinkMetrics


class SinkMetrics:
    """One per sink."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.links = LinkMetrics(self.registry)
        self._by_space: list[Gauge | Counter] = []
        self.leading = self._gauge("leading", "1 where this sink writes the space, 0 where another does.")
        self.pending = self._gauge("pending_windows", "Windows read that are not in a file yet.")
        self.pending_bytes = self._gauge("pending_bytes", "Their bytes.")
        self.stream_entries = self._gauge("stream_entries", "Entries in the window stream.")
        self.lag = self._gauge(
            "lag_seconds",
            "From the newest window in a file to the newest one announced, by the stream's ids.",
        )
        self.files = self._counter("files", "Files written.")
        self.file_bytes = self._counter("file_bytes", "Bytes of windows in those files.")
        self.rows = self._counter("rows", "Records in those files.")
        self.duplicates = self._counter("duplicates", "Records that were announced again and left out.")
        self.gaps = self._counter("gaps_healed", "Times that the space's rows were taken from the table.")
        self.broken = self._counter("broken_windows", "Window messages that could not be read.")
        self.errors = self._counter("errors", "Times that a space had to be begun again after an error.")
        self.changes = self._counter("changes", "Bulk changes whose rows were taken from the table.")
        self.compactions = self._counter("compactions", "Compactions that replaced files.")
        self.write_seconds = Histogram(
            "repcenter_sink_write_seconds",
            "Time to make one file durable.",
            registry=self.registry,
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        made = Gauge(f"repcenter_sink_{name}", text, ["space"], registry=self.registry)
        self._by_space.append(made)
        return made

    def _counter(self, name: str, text: str) -> Counter:
        made = Counter(f"repcenter_sink_{name}_total", text, ["space"], registry=self.registry)
        self._by_space.append(made)
        return made

    def begin(self, space_id: str) -> None:
        """Show a space, with zeros."""
        for metric in self._by_space:
            metric.labels(space_id)

    def expose(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
