"""Rows of the tables in this process: an answer from memory where the rows are there, one read where not.

Of each space and of each ID table in use there is a SlotTable; all have equally many slots, as many as the
limit in bytes allows. ID tables never change. Content is kept right by the space's windows: a newer sequence
wins, and while the stream has been silent for longer than the bound, cached content is not given
(docs/adr/0012). Single-threaded: everything happens on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.codec import ID_INT8, Rows, id_row_dtype, is_tombstone
from contracts.errors import RepcenterError, Unavailable
from contracts.manifest import IdTable
from contracts.space import Space
from contracts.window import Window
from param_server import keys
from param_server.frequency import Counts
from param_server.id_index import Slots
from param_server.resident import Resident, give_back
from param_server.server import Server
from param_server.single_flight import SingleFlight
from param_server.slots import OVERHEAD, Flags, Sequences, SlotTable
from param_server.store import Fetched, Store
from param_server.window_follower import WindowFollower

log = logging.getLogger(__name__)

Pair = tuple[Space, IdTable | None]
Stale = Literal["refuse", "flagged"]
_WARM_CHUNK = 2_048


@dataclass(frozen=True)
class CacheLimits:
    """bytes: of rows and all that belongs to them; bound_s: how far content may be behind the window stream.

    stale: what is done where rows are missing or too old and the store is gone: raise its error, or give what
    is cached and say so (Fetched.stale). patience_s: how long such a fetch waits for the store before it
    counts as gone; None = until it answers or fails.
    """

    bytes: int
    bound_s: float = 2.0
    stale: Stale = "refuse"
    patience_s: float | None = None


@dataclass
class CacheCounts:
    """Since the start, by kind of rows ("content", "id"); a hit is a row given from memory."""

    hits: dict[str, int] = field(default_factory=lambda: {"content": 0, "id": 0})
    misses: dict[str, int] = field(default_factory=lambda: {"content": 0, "id": 0})
    evictions: dict[str, int] = field(default_factory=lambda: {"content": 0, "id": 0})
    resyncs: int = 0
    joins: int = 0
    stale: int = 0


class _NoRows(Resident):
    """Where no ID table is read: one slot, of the row that is always absent."""

    def __init__(self) -> None:
        super().__init__(id_row_dtype(ID_INT8, 0))
        self.slots = SlotTable(1, self.slots.dtype)

    def lookup(self, ids: Sequence[str]) -> Slots:
        return np.zeros(len(ids), np.int64)

    def offer(self, ids: Sequence[str], rows: Rows, found: Flags, sequences: Sequences | None = None) -> None:
        pass


class _SpaceCopy(Resident):
    """The resident records of one space, and who keeps them right."""

    def __init__(self, space: Space, stream: Server, limits: CacheLimits, block_s: float) -> None:
        super().__init__(space.dtype)
        self.flights: list[SingleFlight] = []
        self.follower = WindowFollower(stream, space, limits.bound_s, block_s, self._renew, self.clear)
        self.task = asyncio.create_task(self.follower.run())

    def _renew(self, window: Window) -> None:
        records = window.records
        self.renew(window.item_ids, records, ~is_tombstone(records), records["sequence"])
        for flights in self.flights:
            flights.touch(window.item_ids)


class _PairCopy:
    """What one generation reads."""

    def __init__(self, store: Store, content: _SpaceCopy, rows: Resident, pair: Pair) -> None:
        self.content, self.rows = content, rows
        space, id_table = pair

        async def read(ids: Sequence[str]) -> Fetched:
            return await store.fetch(space, id_table, ids)

        self.flights = SingleFlight(read, self._landed, content.follower.token)
        content.flights.append(self.flights)

    def _landed(self, ids: Sequence[str], fetched: Fetched, touched: set[str], token: int | None) -> None:
        self.rows.offer(ids, fetched.id_rows, fetched.id_found)
        if token is None or token != self.content.follower.token():
            return
        ids, fetched = _without(ids, fetched, touched) if touched else (ids, fetched)
        self.content.offer(ids, fetched.records, fetched.found, fetched.records["sequence"])


class RowCache:
    """`fetch` of the same meaning as the store's, for the tables in use; others are read from the store."""

    def __init__(self, store: Store, stream: Server, limits: CacheLimits, block_s: float = 1.0) -> None:
        """stream: a client of the window streams' server; block_s: less than its time for a reply."""
        self.limits = limits
        self._store, self._stream, self._block_s = store, stream, block_s
        self._spaces: dict[str, _SpaceCopy] = {}
        self._id_tables: dict[IdTable, Resident] = {}
        self._pairs: dict[tuple[str, IdTable | None], _PairCopy] = {}
        self._counts = CacheCounts()  # what belongs to tables in use is counted there until they go
        self._ended: list[asyncio.Task[None]] = []
        self._gone: list[SlotTable] = []
        self._sharing: asyncio.Task[None] | None = None

    async def fetch(self, space: Space, id_table: IdTable | None, item_ids: Sequence[str]) -> Fetched:
        """Content records and ID rows of K distinct ids: from memory, the rest in one round trip.

        Raises what the store raises where something has to be read.
        """
        pair = self._pairs.get((space.id, id_table))
        if pair is None:
            return await self._store.fetch(space, id_table, item_ids)
        content, rows = pair.content.slots, pair.rows.slots
        slots, id_slots = content.lookup(item_ids), pair.rows.lookup(item_ids)
        fresh = pair.content.follower.fresh
        if fresh and slots.min(initial=0) >= 0 and id_slots.min(initial=0) >= 0:
            content.use(slots)
            rows.use(id_slots)
            self._counts.hits["content"] += len(slots)
            self._counts.hits["id"] += len(slots)
            return Fetched(*content.read(slots), *rows.read(id_slots))
        if len(set(item_ids)) < len(item_ids):
            return await self._store.fetch(space, id_table, item_ids)
        return await self._partly(pair, item_ids, slots, id_slots, fresh)

    async def _partly(
        self,
        pair: _PairCopy,
        item_ids: Sequence[str],
        slots: Slots,
        id_slots: Slots,
        fresh: bool,
    ) -> Fetched:
        content, rows = pair.content.slots, pair.rows.slots
        usable = (slots >= 0) & fresh
        self._ask("content", pair.content, item_ids, slots, usable)
        self._ask("id", pair.rows, item_ids, id_slots, id_slots >= 0)
        here = usable & (id_slots >= 0)
        wanted = _chosen(item_ids, ~here)
        try:
            keys.id_bytes(wanted)
        except RepcenterError:
            keys.id_bytes(item_ids)  # names the id by its place in the request
            raise
        out = _nothing(len(item_ids), content.dtype, rows.dtype)
        out.records[here], out.found[here] = content.read(slots[here])
        out.id_rows[here], out.id_found[here] = rows.read(id_slots[here])
        try:
            async with asyncio.timeout(None if self.limits.stale == "refuse" else self.limits.patience_s):
                got = await pair.flights.get(wanted)
        except (Unavailable, TimeoutError):
            if self.limits.stale == "refuse":
                raise
            return self._resident(pair, item_ids)
        out.records[~here], out.found[~here] = got.records, got.found
        out.id_rows[~here], out.id_found[~here] = got.id_rows, got.id_found
        return out

    def _ask(
        self,
        kind: str,
        copy: Resident,
        item_ids: Sequence[str],
        slots: Slots,
        usable: npt.NDArray[np.bool_],
    ) -> None:
        """Count the questions where rows are told by them what is worth keeping."""
        copy.slots.use(slots[slots >= 0])
        copy.miss(_chosen(item_ids, slots < 0))
        given = int(np.count_nonzero(usable))
        self._counts.hits[kind] += given
        self._counts.misses[kind] += len(slots) - given

    def _resident(self, pair: _PairCopy, item_ids: Sequence[str]) -> Fetched:
        """What is cached, however old, and said to be so; what is not cached counts as not found."""
        self._counts.stale += 1
        content, rows = pair.content.slots, pair.rows.slots
        out = _nothing(len(item_ids), content.dtype, rows.dtype)
        for copy, values, found in (
            (pair.content, out.records, out.found),
            (pair.rows, out.id_rows, out.id_found),
        ):
            slots = copy.lookup(item_ids)
            values[slots >= 0], found[slots >= 0] = copy.slots.read(slots[slots >= 0])
        return replace(out, stale=True)

    def use(self, space: Space, id_table: IdTable | None) -> None:
        """Keep rows of these tables from now on, beside those in use, within the same bytes.

        New tables get their slots once the others have given way: see `settled`."""
        if (space.id, id_table) in self._pairs:
            return
        content = self._spaces.get(space.id)
        if content is None:
            content = _SpaceCopy(space, self._stream, self.limits, self._block_s)
            self._spaces[space.id] = content
        rows: Resident = _NoRows()
        if id_table is not None:
            rows = self._id_tables.setdefault(id_table, Resident(id_row_dtype(id_table.codec, id_table.dim)))
        self._pairs[space.id, id_table] = _PairCopy(self._store, content, rows, (space, id_table))
        self._share()

    def keep(self, pairs: Collection[Pair]) -> None:
        """Let go of all tables but those of these pairs; whoever still reads others reads the store."""
        wanted = {(space.id, id_table) for space, id_table in pairs}
        for key in [key for key in self._pairs if key not in wanted]:
            gone = self._pairs.pop(key)
            self._counts.joins += gone.flights.joins
            gone.content.flights.remove(gone.flights)
        before = len(self._spaces) + len(self._id_tables)
        for space_id in self._spaces.keys() - {space_id for space_id, _ in wanted}:
            space = self._spaces.pop(space_id)
            space.task.cancel()
            self._ended = [task for task in self._ended if not task.done()] + [space.task]
            self._counts.resyncs += space.follower.resyncs
            self._let_go("content", space)
        for id_table in self._id_tables.keys() - {id_table for _, id_table in wanted}:
            self._let_go("id", self._id_tables.pop(id_table))
        if len(self._spaces) + len(self._id_tables) < before:
            self._share()

    def _let_go(self, kind: str, copy: Resident) -> None:
        self._counts.evictions[kind] += copy.slots.evictions
        self._gone.append(copy.end())

    def _share(self) -> None:
        if self._sharing is None or self._sharing.done():
            self._sharing = asyncio.create_task(self._shared())

    async def _shared(self) -> None:
        """Equally many slots for every table: a request asks each for the same ids. One table after the
        other, those that give way first, until nothing has changed meanwhile."""
        try:
            while True:
                while self._gone:
                    await give_back(self._gone.pop())
                each = sum(copy.slots.dtype.itemsize + OVERHEAD for _, copy in self._copies())
                slots = self.limits.bytes // each if each else 0
                wrong = [copy for _, copy in self._copies() if copy.slots.capacity != slots]
                if not wrong:
                    return
                await max(wrong, key=lambda copy: copy.slots.capacity).resize(slots)
        except Exception:  # the tables stay as they are until the next change
            log.exception("the tables of cached rows could not be made larger or smaller")

    async def settled(self) -> None:
        """Until every table has its share of the slots."""
        while self._sharing is not None and not self._sharing.done():
            await asyncio.wait([self._sharing])

    def _copies(self) -> Iterator[tuple[str, Resident]]:
        yield from (("content", copy) for copy in self._spaces.values())
        yield from (("id", copy) for copy in self._id_tables.values())

    async def warm(
        self,
        pair: Pair,
        ids: Sequence[str],
        counts: Counts,
        within_s: float,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Wait until all tables have their slots, then until windows are followed, and read rows that will be
        asked for, most wanted first; at most so many seconds from there on -> ids looked up.

        counts: (K,) uint8, how often each is asked for. A store or stream that is gone ends it early.
        """
        copy = self._pairs[pair[0].id, pair[1]]
        done = 0
        await self.settled()
        try:
            async with asyncio.timeout(within_s):
                await copy.content.follower.attached.wait()
                for at in range(0, len(ids), _WARM_CHUNK):
                    some = ids[at : at + _WARM_CHUNK]
                    for table in (copy.content, copy.rows):
                        table.expect(some, counts[at : at + _WARM_CHUNK])
                    slots, id_slots = copy.content.lookup(some), copy.rows.lookup(some)
                    lacking = _chosen(some, (slots < 0) | (id_slots < 0))
                    if lacking:
                        await copy.flights.get(lacking)
                    done += len(some)
                    if progress is not None:
                        progress(done)
        except TimeoutError:
            log.info("warming stopped after %g s, %d of %d ids", within_s, done, len(ids))
        except RepcenterError as error:
            log.warning("warming stopped at %d of %d ids: %s", done, len(ids), error)
        return done

    def hottest(self, most: int) -> tuple[list[str], Counts]:
        """The ids asked for most, most wanted first, at most so many -> ids, (K,) uint8 counts."""
        if len(self._spaces) == 1:
            return next(iter(self._spaces.values())).slots.hottest(most)
        counts: dict[str, int] = {}
        for space in self._spaces.values():
            for item_id, count in zip(*space.slots.hottest(most), strict=True):
                counts[item_id] = max(counts.get(item_id, 0), int(count))
        ids = sorted(counts, key=counts.__getitem__, reverse=True)[:most]
        return ids, np.array([counts[item_id] for item_id in ids], np.uint8)

    def counts(self) -> CacheCounts:
        """A copy of the counts."""
        base, evictions = self._counts, dict(self._counts.evictions)
        for kind, copy in self._copies():
            evictions[kind] += copy.slots.evictions
        return replace(
            base,
            hits=dict(base.hits),
            misses=dict(base.misses),
            evictions=evictions,
            resyncs=base.resyncs + sum(space.follower.resyncs for space in self._spaces.values()),
            joins=base.joins + sum(pair.flights.joins for pair in self._pairs.values()),
        )

    def resident(self) -> dict[str, tuple[int, int]]:
        """By kind: rows in memory, and their bytes with all that belongs to them."""
        found = {"content": (0, 0), "id": (0, 0)}
        for kind, copy in self._copies():
            rows, size = found[kind]
            count = len(copy.slots)
            found[kind] = rows + count, size + count * (copy.slots.dtype.itemsize + OVERHEAD)
        return found

    @property
    def lag_s(self) -> float:
        """Seconds since the slowest space was known to be right; 0 without spaces."""
        return max((space.follower.behind_s for space in self._spaces.values()), default=0.0)

    async def close(self) -> None:
        """End the followers and what is being read."""
        sharing = [] if self._sharing is None else [self._sharing]
        tasks = [*sharing, *self._ended, *(space.task for space in self._spaces.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pair in self._pairs.values():
            await pair.flights.close()


def _chosen(ids: Sequence[str], mask: npt.NDArray[np.bool_]) -> list[str]:
    return [ids[i] for i in np.flatnonzero(mask).tolist()]


def _nothing(count: int, dtype: np.dtype[np.void], id_dtype: np.dtype[np.void]) -> Fetched:
    return Fetched(
        np.zeros(count, dtype), np.zeros(count, bool), np.zeros(count, id_dtype), np.zeros(count, bool)
    )


def _without(ids: Sequence[str], fetched: Fetched, touched: set[str]) -> tuple[list[str], Fetched]:
    kept = [i for i, item_id in enumerate(ids) if item_id not in touched]
    rows = Fetched(fetched.records[kept], fetched.found[kept], fetched.id_rows[kept], fetched.id_found[kept])
    return [ids[i] for i in kept], rows
