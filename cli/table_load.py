"""`repcenter table load`: records of files or of the offline table, ID rows, vectors made elsewhere."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from rich.console import Console

from cli.offline import offline_table, only_space
from cli.progress import Advance, stage
from cli.shelf import stream_url, with_redis
from cli.table import counted
from contracts.codec import CONTENT_FP16, CONTENT_INT8
from contracts.errors import InvalidInput
from contracts.items import AttributeField
from contracts.space import Space
from contracts.window import Window
from param_server.bulk_change import BulkChange
from param_server.connection import connect
from param_server.load_source import Source
from param_server.offline import OfflineTable
from param_server.offline_source import OfflineSource
from param_server.own_vectors import VectorSource, open_vectors, own_digest, sealed_guard
from param_server.record_file import RecordFiles
from param_server.server import Server
from param_server.server_checks import check_policy
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.table_load import Commit, LoadReport, load_id_rows, load_records
from param_server.windows import Windows
from realtime_infer.settings import EncoderSettings

_CODECS = {"int8": CONTENT_INT8, "fp16": CONTENT_FP16}
_SHOWN = 20


def load_table(var: Path, path: Path, table: str | None, restart: bool, as_json: bool) -> None:
    """A file or a directory of records into its space, or a file of ID rows into an ID table."""

    async def load(redis: Server) -> LoadReport:
        await check_policy(redis)
        with stage(Console(stderr=as_json), f"Loading {path}") as advance:
            if table is not None:
                return await load_id_rows(redis, path, table, lambda r, total: advance(r.rows, total))
            source = await asyncio.to_thread(RecordFiles.open, path)
            return await _records(redis, source, var, restart, advance)

    _print_load(with_redis(var, load), as_json)


def load_offline(var: Path, root: str | None, space: str | None, restart: bool, as_json: bool) -> None:
    """The newest record of every item of the offline table into its space."""
    table = offline_table(var, root)

    async def load(redis: Server) -> LoadReport:
        await check_policy(redis)
        with stage(Console(stderr=as_json), f"Loading {table.files.root}") as advance:
            source = await asyncio.to_thread(OfflineSource.open, table, only_space(table, space))
            return await _records(redis, source, var, restart, advance)

    _print_load(with_redis(var, load), as_json)


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
        with stage(Console(stderr=as_json), f"Loading vectors of {path}") as advance:
            file = await asyncio.to_thread(open_vectors, path, named)
            existing = await Store(redis).spaces()
            space = file.space(digest, existing, codec=_CODECS[codec], capacity=capacity)
            await Store(redis).create_space(space)
            source = VectorSource(file, space, await sealed_guard(redis, file, space))
            return await _records(
                redis, source, var, restart, advance, offline_root=root or None, own_sequence=True
            )

    report = with_redis(var, load)
    _print_load(report, as_json)
    if report.refused:
        raise InvalidInput(path.name, report.refused, f"rows were refused, of {report.rows}")


async def _records(
    redis: Server,
    source: Source,
    var: Path,
    restart: bool,
    advance: Advance,
    *,
    offline_root: str | None = None,
    own_sequence: bool = False,
) -> LoadReport:
    async with _Commits(redis, source.space, offline_root, stream_url(var)) as commit:
        return await load_records(
            redis,
            source,
            commit=commit,
            own_sequence=own_sequence,
            resume=not restart,
            progress=lambda r, total: advance(r.skipped + r.rows, total),
        )


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
            f"missing {counted(report.missing)}; flagged {counted(report.flagged)}", highlight=False
        )
    for item, reason in report.failures[:_SHOWN]:
        console.print(f"{item}: {reason}", markup=False, highlight=False)
