"""`repcenter table`: what lies on the shelf, one item of it; tables out of, into and against files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from cli.offline import offline_table, only_space
from cli.progress import stage
from cli.shelf import shelf, stream_url
from contracts.codec import CODEC_NAMES, CONTENT_FP16, CONTENT_INT8
from contracts.errors import Conflict, InvalidInput, NotFound
from contracts.items import AttributeField
from contracts.space import Space
from contracts.window import Window
from param_server.bulk_change import BulkChange
from param_server.connection import connect
from param_server.export import export_id_table, export_space
from param_server.id_tables import id_table
from param_server.inspection import TablesState, inspect_tables
from param_server.offline import OfflineTable
from param_server.offline_source import OfflineSource
from param_server.own_vectors import VectorSource, open_vectors, own_digest, sealed_guard
from param_server.record_file import RecordFiles
from param_server.row_view import view_item
from param_server.server import Server
from param_server.server_checks import check_policy
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.table_load import Commit, LoadReport, load_id_rows, load_records
from param_server.verification import Verification, verify_id_table, verify_space
from param_server.windows import Windows
from realtime_infer.settings import EncoderSettings

T = TypeVar("T")
_CODECS = {"int8": CONTENT_INT8, "fp16": CONTENT_FP16}
_SHOWN = 20


def _with_redis(var: Path, act: Callable[[Server], Awaitable[T]]) -> T:
    async def run(url: str) -> T:
        redis = connect(url, StoreSettings())
        try:
            return await act(redis)
        finally:
            await redis.aclose()

    with shelf(var, reuse=True) as url:
        return asyncio.run(run(url))


def print_tables(var: Path, scanned: bool, as_json: bool) -> None:
    """Every space and ID table."""
    state = _with_redis(var, lambda redis: inspect_tables(redis, scanned=scanned))
    if as_json:
        print(json.dumps(_state_json(state)))
        return
    console = Console()
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
            console.print("[red]this policy drops rows: CONFIG SET maxmemory-policy noeviction[/red]")
    table = Table("space", "vectors", "codec", "live", "record", "stored", "a bucket", "packed", "high water")
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
            console.print(f"  missing {_counts(c.missing)}; flagged {_counts(c.flagged)}", highlight=False)
    table = Table("ID table", "codec", "dim", "rows", "loaded", "stored", "state")
    for t, memory in zip(state.id_tables, state.id_memory, strict=True):
        table.add_row(
            t.table.name,
            CODEC_NAMES.get(t.table.codec, str(t.table.codec)),
            str(t.table.dim),
            f"{t.table.rows:,}",
            f"{t.loaded:,}",
            f"{memory.bytes_per_row:.0f} B",
            "sealed" if t.sealed else "open",
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

    rows = _with_redis(var, read)
    if as_json:
        print(json.dumps({"item_id": item_id, "rows": rows}))
        return
    console = Console()
    for row in rows:
        view = Table("field", "value", title=f"{row['table']} · {item_id}")
        for name, value in row.items():
            if name != "table":
                view.add_row(name, value if isinstance(value, str) else json.dumps(value))
        console.print(view)


def load_table(var: Path, path: Path, table: str | None, restart: bool, as_json: bool) -> None:
    """A file or a directory of records into its space, or a file of ID rows into an ID table."""

    async def load(redis: Server) -> LoadReport:
        await check_policy(redis)
        with stage(_console(as_json), f"Loading {path}") as advance:
            if table is not None:
                return await load_id_rows(redis, path, table, lambda r, total: advance(r.rows, total))
            source = await asyncio.to_thread(RecordFiles.open, path)
            async with _Commits(redis, source.space, None, stream_url(var)) as commit:
                return await load_records(
                    redis,
                    source,
                    commit=commit,
                    resume=not restart,
                    progress=lambda r, total: advance(r.skipped + r.rows, total),
                )

    _print_load(_with_redis(var, load), as_json)


def load_offline(var: Path, root: str | None, space: str | None, restart: bool, as_json: bool) -> None:
    """The newest record of every item of the offline table into its space."""
    table = offline_table(var, root)

    async def load(redis: Server) -> LoadReport:
        await check_policy(redis)
        with stage(_console(as_json), f"Loading {table.files.root}") as advance:
            source = await asyncio.to_thread(OfflineSource.open, table, only_space(table, space))
            async with _Commits(redis, source.space, None, stream_url(var)) as commit:
                return await load_records(
                    redis,
                    source,
                    commit=commit,
                    resume=not restart,
                    progress=lambda r, total: advance(r.skipped + r.rows, total),
                )

    _print_load(_with_redis(var, load), as_json)


def load_vectors(
    var: Path,
    path: Path,
    name: str,
    version: str,
    codec: str,
    attributes: list[str],
    capacity: int | None,
    offline: str | None,
    restart: bool,
    as_json: bool,
) -> None:
    """A file of vectors made elsewhere into a space of its own, and into the offline table."""
    if codec not in _CODECS:
        raise InvalidInput("--codec", codec, f"must be one of {', '.join(_CODECS)}")
    digest, named = own_digest(name, version), [_attribute(text) for text in attributes]
    root = offline if offline is not None else str((var / "offline").resolve())

    async def load(redis: Server) -> LoadReport:
        await check_policy(redis)
        with stage(_console(as_json), f"Loading vectors of {path}") as advance:
            file = await asyncio.to_thread(open_vectors, path, named)
            existing = await Store(redis).spaces()
            space = file.space(digest, existing, codec=_CODECS[codec], capacity=capacity)
            await Store(redis).create_space(space)
            source = VectorSource(file, space, await sealed_guard(redis, file, space))
            async with _Commits(redis, space, root or None, stream_url(var)) as commit:
                return await load_records(
                    redis,
                    source,
                    commit=commit,
                    own_sequence=True,
                    resume=not restart,
                    progress=lambda r, total: advance(r.skipped + r.rows, total),
                )

    report = _with_redis(var, load)
    _print_load(report, as_json)
    if report.refused:
        raise InvalidInput(path.name, report.refused, f"rows were refused, of {report.rows}")


def _attribute(text: str) -> AttributeField:
    """name:categorical:slots or name:numeric."""
    name, _, rest = text.rpartition(":") if text.count(":") == 1 else text.partition(":")
    kind, _, slots = rest.partition(":")
    if kind == "numeric":
        return AttributeField(name, "numeric")
    if kind != "categorical" or not (slots or "1").isdigit():
        raise InvalidInput("--attribute", text, "must be NAME:numeric or NAME:categorical[:SLOTS]")
    return AttributeField(name, "categorical", int(slots or 1))


class _Commits:
    """How a load commits: who may have cached rows is told first; then the table is written, then the offline
    table."""

    def __init__(self, redis: Server, space: Space, offline_root: str | None, stream_url: str | None) -> None:
        """stream_url: of the streams' server, None where it is the tables'."""
        self._redis, self._space = redis, space
        self._stream_url = stream_url
        self._offline = OfflineTable(offline_root) if offline_root is not None else None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Commit:
        store, bounds = Store(self._redis), EncoderSettings()
        stream: Server = self._redis
        if self._stream_url is not None:
            stream = connect(self._stream_url, StoreSettings(), "stream_url")
            self._closing.push_async_callback(stream.aclose)
        change = await self._closing.enter_async_context(
            BulkChange(stream, self._space, bounds.max_windows, bounds.max_window_bytes)
        )
        windows = Windows(store, stream, bounds.max_windows, bounds.max_window_bytes)

        async def commit(window: Window) -> npt.NDArray[np.bool_]:
            await change.hold()
            if self._offline is None:
                return await store.commit_window(window)
            held = await windows.commit(window)
            if held.item_ids:
                name = f"load-{int(held.records['sequence'].max()):020d}"
                await asyncio.to_thread(self._offline.append, held, name)
            kept = set(held.item_ids)
            return np.array([item_id in kept for item_id in window.item_ids], dtype=bool)

        return commit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(kind, error, trace)


def _print_load(report: LoadReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(report), "records_per_s": round(report.records_per_s)}))
        return
    console = Console()
    console.print(
        f"{report.name}: {report.committed:,} committed, {report.superseded:,} lost to newer ones, "
        f"{report.refused:,} refused, {report.skipped:,} done before; {report.records_per_s:,.0f} records/s",
        highlight=False,
    )
    if report.sequence:
        console.print(f"sequence {report.sequence}", highlight=False)
    if report.flagged or report.missing:
        console.print(
            f"missing {_counts(report.missing)}; flagged {_counts(report.flagged)}", highlight=False
        )
    for item, reason in report.failures[:_SHOWN]:
        console.print(f"{item}: {reason}", markup=False, highlight=False)


def export_table(var: Path, path: Path, space: str | None, table: str | None, as_json: bool) -> None:
    """A space (the only one, or that named) or an ID table into a Parquet file."""

    async def export(redis: Server) -> dict[str, Any]:
        with stage(_console(as_json), f"Exporting to {path}") as advance:
            if table is not None:
                report = await export_id_table(redis, await id_table(redis, table), path, advance)
            else:
                report = await export_space(redis, await _space(redis, space), path, advance)
            return asdict(report)

    report = _with_redis(var, export)
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

    report = _with_redis(var, verify)
    if as_json:
        print(json.dumps({**asdict(report), "agrees": report.agrees}))
    else:
        view = Table("rows", "count", "such as", title=report.name)
        for kind in ("checked", "scanned", "missing", "older", "different", "extra", "newer"):
            view.add_row(kind, f"{getattr(report, kind):,}", ", ".join(report.examples.get(kind, [])[:3]))
        Console().print(view)
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


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
