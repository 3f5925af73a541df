"""`repcenter offline`: what the offline table holds, the proof that it is the serving table, compaction."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from cli.grid import grid
from cli.progress import stage
from cli.shelf import with_servers
from contracts.errors import Conflict, InvalidInput, NotFound
from param_server.compaction import CompactionReport, compact
from param_server.connection import redis_errors
from param_server.offline import OfflineTable
from param_server.server import Server
from param_server.stream_id import START, StreamId
from param_server.window_stream import window_stream
from realtime_infer.offline_check import KINDS, OfflineCheck, check_offline, holes
from realtime_infer.sink_settings import SinkSettings

T = TypeVar("T")


def offline_table(var: Path, root: str | None) -> OfflineTable:
    """At `root`, else REPCENTER_OFFLINE_URI, else <var>/offline."""
    return OfflineTable(root or SinkSettings().offline_uri or str((var / "offline").resolve()))


def space_ids(table: OfflineTable, prefix: str | None) -> list[str]:
    """Spaces of the offline table whose ids begin so; NotFound where there is none."""
    found = [space_id for space_id in table.files.space_ids() if space_id.startswith(prefix or "")]
    if not found:
        raise NotFound("space in the offline table", prefix or table.files.root)
    return found


def only_space(table: OfflineTable, prefix: str | None) -> str:
    """The one space that is meant."""
    found = space_ids(table, prefix)
    if len(found) > 1:
        raise InvalidInput("--space", prefix, f"must name one of {', '.join(found)}")
    return found[0]


@dataclass(frozen=True)
class OfflineState:
    """What lies in a space's folder. superseded: files that a compacted one stands for; holes: parts of the
    window stream that no file holds; lag_s: from the newest window in a file to the newest one announced,
    None where there is no stream."""

    space: str
    files: int
    compacted: int
    superseded: int
    rows: int
    bytes: int
    checkpoint: str | None
    holes: list[str]
    lag_s: float | None


def print_state(var: Path, root: str | None, as_json: bool) -> None:
    """Files, rows, bytes and lag of every space."""
    table = offline_table(var, root)

    async def read(_: Server, stream: Server) -> list[OfflineState]:
        return [await _state(table, stream, space_id) for space_id in space_ids(table, None)]

    states = with_servers(var, read)
    if as_json:
        print(json.dumps({"root": table.files.root, "spaces": [asdict(state) for state in states]}))
        return
    view = grid("space", "files", "compacted", "rows", "bytes", "written up to", "lag", "holes")
    for state in states:
        view.add_row(
            state.space,
            f"{state.files:,}",
            f"{state.compacted:,}",
            f"{state.rows:,}",
            f"{state.bytes:,}",
            state.checkpoint or "no sink yet",
            "no stream" if state.lag_s is None else f"{state.lag_s:.1f} s",
            ", ".join(state.holes) or "none",
        )
    console = Console()
    console.print(table.files.root, highlight=False)
    console.print(view)


async def _state(table: OfflineTable, stream: Server, space_id: str) -> OfflineState:
    listing = await asyncio.to_thread(table.files.listing, space_id)
    heads = [await asyncio.to_thread(table.files.head, space_id, name) for name in listing.live]
    checkpoint = table.files.checkpoint(space_id)
    async with redis_errors("read the window stream"):
        newest: Any = await stream.xrevrange(window_stream(space_id), count=1)
    lag = None
    if newest:
        lag = max(0, StreamId.parse(newest[0][0]).ms - (checkpoint or START).ms) / 1000
        if checkpoint is None:
            first: Any = await stream.xrange(window_stream(space_id), count=1)
            lag = max(0.0, time.time() - StreamId.parse(first[0][0]).ms / 1000)
    return OfflineState(
        space_id,
        len(listing.live),
        len(listing.compacted),
        len(listing.superseded),
        sum(head.num_rows for head in heads),
        sum(listing.live.values()),
        None if checkpoint is None else str(checkpoint),
        holes(listing.ranges),
        lag,
    )


def verify(var: Path, root: str | None, space: str | None, sample: int | None, as_json: bool) -> None:
    """The offline table against the serving table, both ways; Conflict where they differ."""
    table = offline_table(var, root)

    async def run(redis: Server, stream: Server) -> list[OfflineCheck]:
        checks = []
        for space_id in space_ids(table, space):
            with stage(Console(stderr=as_json), f"Verifying space {space_id}") as advance:
                found = await asyncio.to_thread(table.space, space_id)
                checks.append(
                    await check_offline(redis, stream, table, found, sample=sample, progress=advance)
                )
        return checks

    checks = with_servers(var, run)
    if as_json:
        print(json.dumps({"spaces": [{**asdict(check), "agrees": check.agrees} for check in checks]}))
    for check in [] if as_json else checks:
        view = Table(
            "", "count", "such as", title=f"space {check.space_id}, written up to {check.checkpoint}"
        )
        for kind in ("files", "rows", "duplicates", "checked", "scanned", *KINDS, "in_flight"):
            such = ", ".join(check.examples.get(kind, [])[:3])
            view.add_row(kind.replace("_", " "), f"{getattr(check, kind):,}", such)
        view.add_row("holes", str(len(check.holes)), ", ".join(check.holes[:3]))
        Console(markup=False).print(view)
    if wrong := [check.space_id for check in checks if not check.agrees]:
        raise Conflict(f"the offline table differs from the serving table in space {', '.join(wrong)}")


def compact_tables(
    var: Path, root: str | None, space: str | None, most_bytes: int, keep_s: int | None, as_json: bool
) -> None:
    """Small files into larger ones, space by space."""
    table, reports = offline_table(var, root), []
    horizon = None if keep_s is None else time.time_ns() // 1_000_000 - 1000 * keep_s
    for space_id in space_ids(table, space):
        with stage(Console(stderr=as_json), f"Compacting space {space_id}") as advance:
            try:
                report = compact(
                    table, table.space(space_id), most_bytes=most_bytes, horizon_ms=horizon, progress=advance
                )
            except FileNotFoundError as error:
                raise Conflict(f"another compaction of space {space_id} runs: {error}") from error
            reports.append(report)
    if as_json:
        print(json.dumps({"spaces": [asdict(report) for report in reports]}))
        return
    for report in reports:
        print(_said(report))


def _said(report: CompactionReport) -> str:
    if not report.written:
        return f"{report.space_id}: {report.files:,} files, nothing to compact"
    return (
        f"{report.space_id}: {report.replaced:,} of {report.files:,} files became {report.written:,} with "
        f"{report.rows:,} rows; {report.duplicates:,} duplicates and {report.outdated:,} old versions went"
    )
