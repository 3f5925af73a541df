"""`repcenter table`: what lies on the shelf, one item of it; tables out of and against files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from cli.grid import grid
from cli.progress import stage
from cli.shelf import with_redis
from contracts.codec import CODEC_NAMES
from contracts.errors import Conflict, InvalidInput, NotFound
from contracts.space import Space
from param_server.export import export_id_table, export_space
from param_server.id_tables import id_table
from param_server.inspection import TablesState, inspect_tables
from param_server.row_view import view_item
from param_server.server import Server
from param_server.store import Store
from param_server.verification import Verification, verify_id_table, verify_space

T = TypeVar("T")


def print_tables(var: Path, scanned: bool, as_json: bool) -> None:
    """Every space and ID table."""
    state = with_redis(var, lambda redis: inspect_tables(redis, scanned=scanned))
    if as_json:
        print(json.dumps(_state_json(state)))
        return
    console = Console(markup=False)
    for i, server in enumerate(state.servers):
        limit = f" of {_bytes(server.maxmemory)}" if server.maxmemory else ""
        rows = sum(s.live_by_server[i] for s in state.spaces)
        node = (
            f"{server.address}, {server.slots:,} slots, {rows:,} records: "
            if server.slots is not None
            else ""
        )
        console.print(
            f"{node}{server.version}, {server.allocator}: {_bytes(server.used_memory)}{limit} used, "
            f"policy {server.policy}",
            highlight=False,
        )
        if server.evicts:
            console.print("this policy drops rows: CONFIG SET maxmemory-policy noeviction", style="red")
    table = grid("space", "vectors", "codec", "live", "record", "stored", "a bucket", "packed", "high water")
    for s in state.spaces:
        table.add_row(
            s.space.id,
            ", ".join(f"{m.name} {m.dim}" for m in s.space.modalities),
            CODEC_NAMES[s.space.codec],
            f"{s.live:,}",
            f"{s.space.dtype.itemsize} B",
            f"{s.memory.bytes_per_row:.0f} B",
            f"{s.memory.rows_per_bucket:.1f}",
            f"{s.memory.packed:.0%}",
            str(s.high_water),
        )
    console.print(table)
    for s in state.spaces:
        if s.contents is not None:
            c = s.contents
            console.print(f"{s.space.id}: {c.live:,} live, {c.deleted:,} deleted", highlight=False)
            console.print(f"  missing {counted(c.missing)}; flagged {counted(c.flagged)}", highlight=False)
    table = grid("ID table", "codec", "dim", "rows", "loaded", "stored", "state")
    for t, memory in zip(state.id_tables, state.id_memory, strict=True):
        table.add_row(
            t.table.name,
            CODEC_NAMES.get(t.table.codec, str(t.table.codec)),
            str(t.table.dim),
            f"{t.table.rows:,}",
            f"{t.loaded:,}",
            f"{memory.bytes_per_row:.0f} B",
            ("sealed" if t.sealed else "open") + (f", over {t.table.base}" if t.table.base else ""),
        )
    console.print(table)


def _state_json(state: TablesState) -> dict[str, Any]:
    return {
        "servers": [asdict(server) for server in state.servers],
        "spaces": [
            {
                "id": s.space.id,
                **s.space.to_json(),
                "record_bytes": s.space.dtype.itemsize,
                "live": s.live,
                "live_by_server": s.live_by_server,
                "high_water": s.high_water,
                **asdict(s.memory),
                "contents": None if s.contents is None else asdict(s.contents),
            }
            for s in state.spaces
        ],
        "id_tables": [
            {**asdict(t.table), "loaded": t.loaded, "sealed": t.sealed, **asdict(memory)}
            for t, memory in zip(state.id_tables, state.id_memory, strict=True)
        ],
    }


def print_item(var: Path, item_id: str, space: str | None, table: str | None, as_json: bool) -> None:
    """One item's records and ID rows; NotFound where no table holds it."""

    async def read(redis: Server) -> list[dict[str, Any]]:
        return await view_item(redis, item_id, space, table)

    rows = with_redis(var, read)
    if as_json:
        print(json.dumps({"item_id": item_id, "rows": rows}))
        return
    console = Console(markup=False)
    for row in rows:
        view = grid("field", "value", title=f"{row['table']} · {item_id}")
        for name, value in row.items():
            if name != "table":
                view.add_row(name, value if isinstance(value, str) else json.dumps(value))
        console.print(view)


def export_table(var: Path, path: Path, space: str | None, table: str | None, as_json: bool) -> None:
    """A space (the only one, or that named) or an ID table into a Parquet file."""

    async def export(redis: Server) -> dict[str, Any]:
        with stage(_console(as_json), f"Exporting to {path}") as advance:
            if table is not None:
                report = await export_id_table(redis, await id_table(redis, table), path, advance)
            else:
                report = await export_space(redis, await _space(redis, space), path, advance)
            return asdict(report)

    report = with_redis(var, export)
    if as_json:
        print(json.dumps(report))
    else:
        print(f"{report['records']:,} rows and {report['deleted']:,} deletions in {report['path']}")


def verify_table(var: Path, path: Path, table: str | None, sample: int | None, as_json: bool) -> None:
    """A space against files of its records, or an ID table against its file; Conflict where they differ."""

    async def verify(redis: Server) -> Verification:
        with stage(_console(as_json), f"Verifying against {path}") as advance:
            if table is not None:
                found = await id_table(redis, table)
                return await verify_id_table(redis, path, found, sample=sample, progress=advance)
            return await verify_space(redis, path, sample=sample, progress=advance)

    report = with_redis(var, verify)
    if as_json:
        print(json.dumps({**asdict(report), "agrees": report.agrees}))
    else:
        view = grid("rows", "count", "such as", title=report.name)
        for kind in ("checked", "scanned", "missing", "older", "different", "extra", "newer"):
            view.add_row(kind, f"{getattr(report, kind):,}", ", ".join(report.examples.get(kind, [])[:3]))
        Console(markup=False).print(view)
    if not report.agrees:
        raise Conflict(f"{report.name} differs from {path}")


async def _space(redis: Server, prefix: str | None) -> Space:
    """The space whose id begins so, or the only one."""
    spaces = [s for s in await Store(redis).spaces() if s.id.startswith(prefix or "")]
    if not spaces:
        raise NotFound("space", prefix or "")
    if len(spaces) > 1:
        raise InvalidInput("--space", prefix, f"must name one of {', '.join(s.id for s in spaces)}")
    return spaces[0]


def _console(as_json: bool) -> Console:
    """Progress must not stand between the lines of JSON."""
    return Console(stderr=as_json)


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
