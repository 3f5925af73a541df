"""The proof that the offline table holds what the serving table holds: same bytes, same sequences, both ways.

A difference that a window on its way explains is none: the window is looked for in the stream, behind what
the offline table has; then the item is looked at again in files that were written meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.codec import stored_bytes
from contracts.errors import NotFound, shown
from contracts.space import Space
from contracts.window import decode_window
from param_server import keys
from param_server.connection import redis_errors
from param_server.hget import hget
from param_server.offline import OfflineTable
from param_server.scan import scan
from param_server.server import Server
from param_server.stream_id import START, Range, StreamId
from param_server.window_stream import WINDOW_FIELD, window_stream

KINDS = ("missing", "behind", "absent", "stale", "different")
MAX_EXAMPLES = 20  # per kind of difference
_ROUNDS = 3
_ROWS = 4_096
_ENTRIES = 64

Progress = Callable[[int, int], None]  # rows done, in all


@dataclass
class OfflineCheck:
    """checked: items of the offline table; scanned: of the serving table; files, rows: of the offline table;
    duplicates: rows that another file holds too (a reader counts them once).

    missing: only the offline table has them; behind: the serving table holds an older sequence; absent: only
    the serving table has them; stale: the offline table's newest is older; different: equal sequences, other
    bytes; in_flight: differences that a window on its way explains; holes: parts of the stream that no file
    holds; checkpoint: newest entry in a file."""

    space_id: str
    checkpoint: str = ""
    checked: int = 0
    scanned: int = 0
    files: int = 0
    rows: int = 0
    duplicates: int = 0
    missing: int = 0
    behind: int = 0
    absent: int = 0
    stale: int = 0
    different: int = 0
    in_flight: int = 0
    holes: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        return not self.holes and not any(getattr(self, kind) for kind in KINDS)

    def add(self, kind: str, item_id: str) -> None:
        """Count a difference and keep some."""
        setattr(self, kind, getattr(self, kind) + 1)
        kept = self.examples.setdefault(kind, [])
        if len(kept) < MAX_EXAMPLES:
            kept.append(shown(item_id))


async def check_offline(
    table: Server,
    stream: Server,
    offline: OfflineTable,
    space: Space,
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> OfflineCheck:
    """Compare a space's newest rows on both sides.

    sample: about so many items of each side, None = all. NotFound where the offline table has nothing of the
    space; Unavailable, SpaceMismatch, UnknownVersion, InvalidInput (a file that is broken, by name).
    """
    run = _Run(table, stream, offline, space, sample, seed)
    return await run.all(progress)


class _Run:
    """One comparison."""

    def __init__(
        self,
        table: Server,
        stream: Server,
        offline: OfflineTable,
        space: Space,
        sample: int | None,
        seed: int,
    ) -> None:
        self._table, self._stream, self._offline, self._space = table, stream, offline, space
        self._family = keys.records(space.id, space.buckets)
        self._sample, self._random = sample, np.random.default_rng(seed)
        self._report = OfflineCheck(space.id)

    async def all(self, progress: Progress) -> OfflineCheck:
        report = self._report
        known = await asyncio.to_thread(self._read)
        share = 1.0 if self._sample is None else min(1.0, self._sample / max(1, len(known)))
        total = 2 * len(known)
        ids = [i for i in known if share == 1.0 or self._random.random() < share]
        odd: set[str] = set()
        for at in range(0, len(ids), _ROWS):
            some = ids[at : at + _ROWS]
            stored = await self._stored(some)
            odd |= {i for i, value in zip(some, stored, strict=True) if value != known[i]}
            report.checked += len(some)
            progress(round(report.checked / share), total)
        async for some in self._scanned(share, len(known), total, progress):
            odd |= {i for i in some if i not in known}
        await self._judge(odd, known)
        return report

    def _read(self) -> dict[str, bytes]:
        """Newest stored bytes by item, deleted ones included."""
        report, space = self._report, self._space
        listing = self._offline.files.listing(space.id)
        if not listing.live:
            raise NotFound("offline table of space", space.id)
        rows = self._offline.rows(space)
        newest = rows.newest()
        report.files, report.rows = len(listing.live), len(rows.records)
        report.duplicates = len(rows.records) - len(rows.distinct())
        report.checkpoint = str(self._offline.files.checkpoint(space.id) or "")
        report.holes = holes(listing.ranges)
        return dict(zip(rows.names(newest), stored_bytes(rows.records[newest]), strict=True))

    async def _stored(self, ids: list[str]) -> list[bytes | None]:
        async with redis_errors("verify the offline table"):
            return list(await hget(self._table, [self._family], keys.id_bytes(ids)))

    async def _scanned(
        self, share: float, before: int, total: int, progress: Progress
    ) -> AsyncIterator[list[str]]:
        count = max(1, round(share * self._family.buckets))
        numbers = np.sort(self._random.permutation(self._family.buckets)[:count])
        async with aclosing(scan(self._table, self._family, numbers)) as parts:
            async for part in parts:
                self._report.scanned += len(part.ids)
                progress(before + round(before * part.buckets / len(numbers)), total)
                yield [item_id.decode(errors="replace") for item_id in part.ids]

    async def _judge(self, odd: set[str], known: dict[str, bytes]) -> None:
        """Name the differences that stay when both sides have been looked at again."""
        report = self._report
        for _ in range(_ROUNDS):
            if not odd:
                return
            checkpoint = self._offline.files.checkpoint(self._space.id) or START
            flying = await self._flying(checkpoint, odd)
            known = await asyncio.to_thread(self._again)
            ids = sorted(odd)
            stored = dict(zip(ids, await self._stored(ids), strict=True))
            odd = {i for i in ids if stored[i] != known.get(i)}
            explained = {i for i in odd if stored[i] is not None and stored[i] in flying.get(i, ())}
            report.in_flight = len(explained)
            odd -= explained
        for item_id in sorted(odd):
            report.add(_kind(known.get(item_id), stored[item_id]), item_id)

    def _again(self) -> dict[str, bytes]:
        ids, records = self._offline.read_newest(self._space)
        return dict(zip(ids, stored_bytes(records), strict=True))

    async def _flying(self, after: StreamId, items: set[str]) -> dict[str, list[bytes]]:
        """What windows behind `after` bring of some items."""
        out: dict[str, list[bytes]] = {}
        while True:
            async with redis_errors("read windows"):
                found: Any = await self._stream.xrange(
                    window_stream(self._space.id), min=f"({after}", count=_ENTRIES
                )
            for entry, fields in found:
                after = StreamId.parse(entry)
                if WINDOW_FIELD not in fields:
                    continue
                window = decode_window(fields[WINDOW_FIELD], self._space)
                for item_id, value in zip(window.item_ids, stored_bytes(window.records), strict=True):
                    if item_id in items:
                        out.setdefault(item_id, []).append(value)
            if len(found) < _ENTRIES:
                return out


def _kind(offline: bytes | None, table: bytes | None) -> str:
    if table is None:
        return "missing"
    if offline is None:
        return "absent"
    ours, theirs = (int.from_bytes(value[4:12], "little") for value in (offline, table))
    if ours == theirs:
        return "different"
    return "behind" if theirs < ours else "stale"


def holes(ranges: list[Range]) -> list[str]:
    """Between the parts of the stream that files hold; the first begins at the stream's beginning."""
    if not ranges:
        return []
    ends = [START, *(r.last for r in ranges)]
    return [f"{end} to {r.after}" for end, r in zip(ends, ranges, strict=False) if r.after > end]
