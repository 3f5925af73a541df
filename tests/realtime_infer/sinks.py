"""Sinks for tests, windows for them, and what a whole offline table must hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from redis.asyncio import Redis

from contracts.codec import stored_bytes
from contracts.space import Space
from contracts.window import Window
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.stream_id import START, Range, StreamId
from param_server.window_stream import window_stream
from param_server.windows import Windows
from realtime_infer.app import RunningSink, open_sink
from realtime_infer.offline_check import check_offline
from realtime_infer.sink_settings import SinkSettings
from tests.param_server.samples import make_records, make_tombstones
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import until


def quick(root: Path | str, **changes: object) -> SinkSettings:
    """Files after a moment, ports that are free, no compaction."""
    return SinkSettings.model_validate(
        {
            "offline_uri": str(root),
            "sink_roll_s": 0.05,
            "sink_poll_s": 0.05,
            "sink_lease_s": 0.5,
            "sink_compact_s": 0,
            "http_port": 0,
            **changes,
        }
    )


class Pushes:
    """Commits and announces windows, and remembers every record of them."""

    def __init__(
        self, redis: Redis, space: Space, max_windows: int = 10_000, max_bytes: int = 1 << 30
    ) -> None:
        self.space = space
        self.windows = Windows(Store(redis), redis, max_windows, max_bytes)
        self.sequence = 0
        self.records: dict[tuple[str, int], bytes] = {}

    async def push(self, *item_ids: str, delete: bool = False) -> Window:
        """One window of new versions of these items."""
        sequences = list(range(self.sequence + 1, self.sequence + 1 + len(item_ids)))
        self.sequence += len(item_ids)
        make = make_tombstones if delete else make_records
        window = Window(self.space, list(item_ids), make(self.space, sequences), 1)
        await self.windows.announce(await self.windows.commit(window))
        for item_id, sequence, value in zip(item_ids, sequences, stored_bytes(window.records), strict=True):
            self.records[item_id, sequence] = value
        return window


@asynccontextmanager
async def sinking(settings: SinkSettings, store: StoreSettings) -> AsyncIterator[RunningSink]:
    async with open_sink(settings, store) as running:
        yield running


async def newest(redis: Redis, space: Space) -> StreamId:
    """Id of the newest window."""
    found = await entries(redis, window_stream(space.id))
    return StreamId.parse(found[-1][0]) if found else START


async def written(redis: Redis, table: OfflineTable, space: Space) -> None:
    """Until every window that is announced now is in a file."""
    goal = await newest(redis, space)

    async def done() -> bool:
        return (table.files.checkpoint(space.id) or START) >= goal and bool(table.files.names(space.id))

    await until(done)


async def follows(table: OfflineTable, space: Space) -> None:
    """Until a sink has begun a space."""

    async def begun() -> bool:
        return table.files.checkpoint(space.id) is not None

    await until(begun)


async def assert_whole(redis: Redis, table: OfflineTable, pushes: Pushes) -> None:
    """Every record is there once for a reader, with its own bytes; no hole; both tables agree."""
    space = pushes.space
    rows = table.rows(space)
    kept = rows.distinct()
    sequences = rows.records["sequence"][kept].tolist()
    values = stored_bytes(rows.records[kept])
    found = dict(zip(zip(rows.names(kept), sequences, strict=True), values, strict=True))
    assert len(found) == len(kept)
    assert found == pushes.records
    check = await check_offline(redis, redis, table, space)
    assert check.agrees, check
    assert check.in_flight == 0
    assert joined_from_start(table, space)


def joined_from_start(table: OfflineTable, space: Space) -> bool:
    """Whether files cover the stream from its beginning without a hole."""
    (covered,) = table.files.listing(space.id).ranges
    return covered == Range(START, table.files.checkpoint(space.id) or START)


def announced_twice(table: OfflineTable, space: Space) -> int:
    """Records that more than one file of windows holds, or one of them twice."""
    names = [name for name in table.files.names(space.id) if name.startswith("windows-")]
    rows = table.rows_of(space, names)
    return len(rows.records) - len(rows.distinct())


def times(table: OfflineTable, space: Space) -> dict[tuple[str, int], int]:
    """Ingestion time by item and sequence."""
    rows = table.rows(space)
    kept = rows.distinct()
    keys = zip(rows.names(kept), rows.records["sequence"][kept].tolist(), strict=True)
    return dict(zip(keys, np.asarray(rows.committed_ms[kept]).tolist(), strict=True))
