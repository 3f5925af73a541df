"""What `repcenter bench freshness` prints: a table, the times as bars, the last line."""

from __future__ import annotations

import json

import numpy as np
from rich.console import Console
from rich.table import Table

from cli.freshness import FreshnessReport, percentiles
from loadtests.freshness import Freshness
from realtime_infer.infinity_process import LEFT_OUT

_BARS, _WIDTH = 12, 40


def print_report(console: Console, report: FreshnessReport) -> None:
    """Rates, percentiles and how the times are spread."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "items/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="left" if not name else "right")
    for name, rate, run in (
        ("push until ok, half of the capacity", report.rate, report.fresh),
        ("the same, an encoder that costs nothing", report.overhead_rate, report.overhead),
    ):
        table.add_row(name, f"{rate:,.0f}", *(_shown(value) for value in percentiles(run)))
    for name, value in (
        ("capacity, one worker", report.capacity),
        ("capacity, two workers", report.capacity_2),
        ("bare loop, bytes to vectors", report.bare.whole),
        ("bare loop, graphs alone", report.bare.graphs),
        ("bare loop, titles alone", report.texts.bare),
        ("infinity, the same titles", report.texts.infinity),
        ("queue, an encoder that costs nothing", report.queue),
    ):
        table.add_row(name, _shown(value), "", "")
    console.print(table)
    if report.texts.infinity is not None:
        console.print(
            "pictures are not compared: infinity takes no ONNX image tower, only Hugging Face's models",
            soft_wrap=True,
        )
    elif report.texts.why != LEFT_OUT:
        console.print(
            f"infinity could not be measured: {report.texts.why}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    _print_spread(console, report.fresh)


def _print_spread(console: Console, run: Freshness) -> None:
    if not run.latencies_ms:
        return
    edges = np.geomspace(min(run.latencies_ms), max(run.latencies_ms) * 1.001, _BARS + 1)
    counts, _ = np.histogram(run.latencies_ms, edges)
    for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False):
        bar = "█" * round(_WIDTH * count / counts.max())
        console.print(f"  {low:8.1f} to {high:8.1f} ms {bar} {count}", highlight=False)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def last_line(report: FreshnessReport, as_json: bool) -> str:
    """One JSON object, or the two figures that count."""
    if as_json:
        return json.dumps(report.to_json())
    p50, p99 = percentiles(report.fresh)
    return f"push until ok: p50 {_shown(p50)} ms, p99 {_shown(p99)} ms at {report.rate:.0f} items/s"
