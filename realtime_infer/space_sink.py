"""One space's windows from its stream into the offline table, in order, none left out.

    lease -> checkpoint (the newest file's name) -> read behind it -> file at 60 s or 64 MB -> tell the stream

The file's name is the checkpoint, so nothing can come between writing a file and noting it. The stream is
told how far it is written only so that it may forget; the lease only spares work: two sinks that both wrote
would write overlapping ranges, each whole, and readers count a record once.

Where windows behind the checkpoint may be gone (the stream was over its bytes, or its server lost it), the
space's rows come from the serving table: all that was announced was committed there before.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pyarrow as pa

from contracts.errors import InvalidInput, RepcenterError, SpaceMismatch, UnknownVersion
from contracts.space import Space
from contracts.window import Window, decode_window
from param_server.connection import redis_errors
from param_server.offline import OfflineTable, digest_of
from param_server.offline_files import windows_name
from param_server.record_file import to_table
from param_server.server import Server, failed_over, home, primaries
from param_server.slot_map import Address
from param_server.store import Store
from param_server.stream_id import START, StreamId
from param_server.window_stream import (
    LONGEST_CHANGE_MS,
    WINDOW_FIELD,
    ChangeNotice,
    parse_change,
    window_lease,
    window_owed,
    window_stream,
    window_sunk,
)
from realtime_infer.compactions import Compactions
from realtime_infer.roll import Roll
from realtime_infer.sink_metrics import SinkMetrics
from realtime_infer.sink_settings import SinkSettings
from realtime_infer.stream_scripts import Argument
from realtime_infer.table_rows import table_rows
from realtime_infer.window_scripts import ANCHORED, HOLD, PUBLISH, RAISE, RELEASE

log = logging.getLogger(__name__)
_ENTRIES = 64  # of one read
_BLOCK_MS = 250
_SWEPT = ("windows-", "resync-", "compact-")


class LeaseLost(Exception):
    """Another sink writes this space now."""


class SpaceSink:
    """table: a client of the serving table's server; stream: of the window streams'."""

    def __init__(
        self,
        space: Space,
        table: Server,
        stream: Server,
        offline: OfflineTable,
        settings: SinkSettings,
        metrics: SinkMetrics,
    ) -> None:
        self.space = space
        self._table, self._stream, self._offline = table, stream, offline
        self._settings, self._metrics = settings, metrics
        self._key, self._lease = window_stream(space.id), window_lease(space.id)
        self._token = uuid.uuid4().bytes
        self._home: Address | None = None  # the node of a cluster that has the stream
        self._stop = asyncio.Event()
        self._roll = Roll(space, START, START)
        self._held_until = 0.0
        self._changing: dict[str, float] = {}  # writers of rows without windows, and until when they may
        self._compactions = Compactions(offline, space, settings, metrics, self._stop.is_set)
        metrics.begin(space.id)
        self.error: str | None = None  # why it does not get on, None while it does

    def stop(self) -> None:
        """Write what was read, then end."""
        self._stop.set()

    async def run(self) -> None:
        """Until stop(): whatever goes wrong, begin again at the checkpoint. One space never stops another."""
        pause = 0.05
        while not self._stop.is_set():
            try:
                if await self._hold():
                    await self._begin()
                    self.error, pause = None, 0.05
                    await self._follow()
                self.error = None
            except LeaseLost:
                log.warning("space %s: another sink has taken over", self.space.id)
            except Exception as error:
                self.error = f"space {self.space.id}: {error}"
                self._metrics.errors.labels(self.space.id).inc()
                if isinstance(error, RepcenterError):
                    log.warning("waiting: %s", self.error)
                else:
                    log.exception("space %s: begun again", self.space.id)
                pause = min(2 * pause, 2.0)
            self._metrics.leading.labels(self.space.id).set(0)
            try:
                await asyncio.wait_for(self._stop.wait(), max(pause, self._settings.sink_lease_s / 10))
            except TimeoutError:
                continue
        await self._compactions.end()
        async with redis_errors("give a lease back"):
            await RELEASE.run(self._stream, [self._lease], [self._token])

    async def _hold(self) -> bool:
        """Take or renew the lease."""
        async with redis_errors("hold a lease"):
            ttl = round(1000 * self._settings.sink_lease_s)
            held: int = await HOLD.run(self._stream, [self._lease], [self._token, ttl])
        self._held_until = time.monotonic() + self._settings.sink_lease_s
        self._metrics.leading.labels(self.space.id).set(held)
        return bool(held)

    async def _renew(self) -> bool:
        """Renew the lease when two thirds of it are over -> whether it was. LeaseLost."""
        if time.monotonic() < self._held_until - self._settings.sink_lease_s * 2 / 3:
            return False
        if not await self._hold():
            raise LeaseLost
        return True

    async def _begin(self) -> None:
        """Go on behind the newest file; a table that has none begins with all rows of the space."""
        files = self._offline.files
        await asyncio.to_thread(files.sweep, self.space.id, _SWEPT)
        checkpoint = await asyncio.to_thread(files.checkpoint, self.space.id)
        self._changing = {}
        async with redis_errors("read what is owed"):
            if await self._stream.exists(window_owed(self.space.id)):
                self._changing[""] = time.monotonic() + LONGEST_CHANGE_MS / 1000  # of notices read before
        self._home = self._home or home(self._stream, self._key)
        self._roll = Roll(self.space, checkpoint or START, checkpoint or START)
        if checkpoint is None:
            await self._resync("the offline table does not follow the space yet", first=True)
            return
        await self._publish()
        await self._check_gap()

    async def _follow(self) -> None:
        """Until stop(), and then until what had been announced by then is read."""
        while True:
            stopping = self._stop.is_set()
            if await self._renew():
                await self._look()
            entries = await self._read()
            if entries:
                await self._check_gap()
            for entry, fields in entries:
                await self._take(entry, fields)
            await self._take_changes()
            due = self._roll.began + self._settings.sink_roll_s
            if self._roll.waiting and time.monotonic() >= due:
                await self._write()
            if stopping and len(entries) < _ENTRIES:
                break
            self._compactions.begin_when_due()
        await self._write()

    async def _read(self) -> list[tuple[StreamId, dict[bytes, bytes]]]:
        wait = 0.0 if self._stop.is_set() else _BLOCK_MS / 1000
        if self._roll.waiting:
            wait = min(wait, self._roll.began + self._settings.sink_roll_s - time.monotonic())
        async with redis_errors("read windows"):
            reply: Any = await self._stream.xread(
                {self._key: self._roll.last.encode()}, count=_ENTRIES, block=max(1, round(1000 * wait))
            )
        return [(StreamId.parse(entry), fields) for entry, fields in reply[0][1]] if reply else []

    async def _take(self, entry: StreamId, fields: dict[bytes, bytes]) -> None:
        if entry <= self._roll.last:
            return  # a resync has taken it already
        message = fields.get(WINDOW_FIELD, b"")
        try:
            if (notice := parse_change(fields)) is not None:
                await self._note(notice)
                self._roll.pass_over(entry)
                return
            window = decode_window(message, self.space)
        except (UnknownVersion, InvalidInput, SpaceMismatch) as error:
            log.error("space %s, window %s cannot be read: %s", self.space.id, entry, error)
            self._metrics.broken.labels(self.space.id).inc()
            await self._write()
            await self._resync(f"window {entry} is broken")  # passes over this one entry
            return
        self._roll.add(entry, window, len(message))
        self._metrics.pending.labels(self.space.id).set(len(self._roll.windows))
        self._metrics.pending_bytes.labels(self.space.id).set(self._roll.size)
        if self._roll.size >= self._settings.sink_roll_bytes:
            await self._write()

    async def _note(self, notice: ChangeNotice) -> None:
        """Rows change without windows: the table is owed a look when that has ended, by whatever sink."""
        async with redis_errors("note what is owed"):
            await self._stream.set(window_owed(self.space.id), 1)
        self._changing[notice.writer] = time.monotonic() + notice.lasts_ms / 1000

    async def _take_changes(self) -> None:
        """Take all rows from the table where a change without windows has ended or run out."""
        ended = [writer for writer, until in self._changing.items() if until <= time.monotonic()]
        if not ended:
            return
        await self._write()
        await self._take_rows()
        for writer in ended:
            del self._changing[writer]
        self._metrics.changes.labels(self.space.id).inc()
        if not self._changing:
            async with redis_errors("note that nothing is owed"):
                await self._stream.delete(window_owed(self.space.id))

    async def _look(self) -> None:
        """Between reads: the stream may have been lost with its server."""
        await self._check_gap()
        async with redis_errors("look at a window stream"):
            entries = await self._stream.xlen(self._key)
            newest: Any = await self._stream.xrevrange(self._key, count=1)
        self._metrics.stream_entries.labels(self.space.id).set(entries)
        behind = StreamId.parse(newest[0][0]).ms - self._roll.after.ms if newest else 0
        self._metrics.lag.labels(self.space.id).set(max(0, behind) / 1000)

    async def _check_gap(self) -> None:
        """Heal where a window behind the last one read may be gone."""
        async with redis_errors("look for a gap of windows"):
            anchored = await ANCHORED.run(self._stream, [self._key], [self._roll.last.encode()])
        replaced, here = failed_over(self._stream, self._home), home(self._stream, self._key)
        if not anchored or replaced:
            await self._write()
            await self._resync(f"windows behind {self._roll.last} may be gone")
        self._home = here

    async def _resync(self, why: str, *, first: bool = False) -> None:
        """All rows of the serving table, and how far the stream then is; nothing may be waiting in the roll.

        The next entry that is there is taken too: whatever was lost before it was committed before it, so the
        scan sees it. What comes behind it is read as ever, with the times that it has.
        """
        await Store(self._table).space(self.space.id)  # nothing is made anew of a space that was collected
        roll = self._roll
        level = logging.INFO if first else logging.WARNING
        log.log(level, "space %s: taking all rows from the table: %s", self.space.id, why)
        async with redis_errors("read windows"):
            newest = StreamId.parse(await RAISE.run(self._stream, [self._key], [roll.after.encode()]))
            behind: Any = await self._stream.xrange(self._key, min=f"({roll.after}", count=1)
        await self._take_rows()
        self._metrics.gaps.labels(self.space.id).inc(0 if first else 1)
        roll.last = newest
        if behind:
            entry, fields = behind[0]
            roll.last = StreamId.parse(entry)
            try:
                if (notice := parse_change(fields)) is not None:
                    await self._note(notice)
                    return await self._write()
                window = decode_window(fields.get(WINDOW_FIELD, b""), self.space)
            except (UnknownVersion, InvalidInput, SpaceMismatch):
                log.warning("space %s: window %s is passed over", self.space.id, roll.last)
            else:
                roll.add(roll.last, window, len(fields[WINDOW_FIELD]))
        await self._write(even_empty=first)

    async def _take_rows(self) -> None:
        """All rows of the serving table into files; their time is now, for nobody can tell a better one."""
        async with redis_errors("read the clock"):
            clock = next(iter((await primaries(self._stream)).values()))
            seconds, micros = await clock.time()
        now, part = int(seconds) * 1000 + int(micros) // 1000, 0
        rows = table_rows(self._table, self.space, self._settings.sink_roll_bytes, self._renew)
        async with aclosing(rows) as parts:
            async for ids, records in parts:
                window = Window(self.space, ids, records, now)
                name = f"resync-{self._roll.after.padded}-{part:06d}-{digest_of(window)}.parquet"
                await self._store(name, to_table(window))
                part += 1

    async def _write(self, *, even_empty: bool = False) -> None:
        """The roll as a file, the checkpoint told to the stream, a new roll behind it."""
        roll = self._roll
        if not roll.waiting and not even_empty:
            return
        await self._renew()
        table, duplicates = await asyncio.to_thread(roll.table)
        await self._store(windows_name(roll.covered), table)
        self._metrics.duplicates.labels(self.space.id).inc(duplicates)
        self._roll = Roll(self.space, roll.last, roll.last)
        self._metrics.pending.labels(self.space.id).set(0)
        self._metrics.pending_bytes.labels(self.space.id).set(0)
        await self._publish()

    async def _store(self, name: str, table: pa.Table) -> None:
        began = time.perf_counter()
        await asyncio.to_thread(self._offline.files.write, self.space.id, name, table)
        self._metrics.write_seconds.observe(time.perf_counter() - began)
        self._metrics.files.labels(self.space.id).inc()
        self._metrics.file_bytes.labels(self.space.id).inc(table.nbytes)
        self._metrics.rows.labels(self.space.id).inc(table.num_rows)

    async def _publish(self) -> None:
        """Windows up to the newest file may go. LeaseLost."""
        names = [self._lease, window_sunk(self.space.id)]
        values: Sequence[Argument] = [self._token, self._roll.after.encode(), self._settings.sink_hold_s]
        async with redis_errors("tell how far windows are written"):
            if not await PUBLISH.run(self._stream, names, values):
                raise LeaseLost
