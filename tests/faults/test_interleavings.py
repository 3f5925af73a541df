"""An older write after a newer one, by every way that writes, in every order: the newest sequence stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import permutations
from math import perm
from pathlib import Path

import pytest
from redis.asyncio import Redis

from contracts.codec import Rows
from contracts.space import Space
from contracts.window import Window
from param_server.record_file import RecordFiles, RecordFileWriter
from param_server.store import Store
from param_server.table_load import load_records
from param_server.windows import Windows
from tests.param_server.samples import make_records, make_space, make_tombstones

Write = Callable[[list[str]], Awaitable[None]]


def _ways(redis: Redis, space: Space, folder: Path) -> list[tuple[Write, Rows]]:
    """Five writes of one item, oldest first: a backfill's row, a push, a delete, a load's row, a push."""
    store = Store(redis)
    windows = Windows(store, redis, max_windows=100)
    rows = [make_records(space, [10 * n], seed=n) for n in range(1, 6)]
    rows[2] = make_tombstones(space, [30])

    def direct(row: Rows) -> Write:
        async def write(item_ids: list[str]) -> None:
            await store.commit_window(Window(space, item_ids, row, 0))

        return write

    def announced(row: Rows) -> Write:
        async def write(item_ids: list[str]) -> None:
            await windows.announce(await windows.commit(Window(space, item_ids, row, 0)))

        return write

    def loaded(row: Rows) -> Write:
        async def write(item_ids: list[str]) -> None:
            path = folder / "rows.parquet"
            with RecordFileWriter(path, space) as writer:
                writer.write(item_ids, row)
            await load_records(redis, RecordFiles.open(path))

        return write

    makes = (direct, announced, announced, loaded, announced)
    return [(make(row), row) for make, row in zip(makes, rows, strict=True)]


@pytest.mark.parametrize("counts", [(2,), pytest.param((3, 4, 5), marks=pytest.mark.faults)])
async def test_the_newest_stays_whatever_the_order(
    redis: Redis, tmp_path: Path, outcomes: Counter[str], counts: tuple[int, ...]
) -> None:
    space = make_space(dim=4)
    store = Store(redis)
    await store.create_space(space)
    ways = _ways(redis, space, tmp_path)
    for count in counts:
        for order in permutations(range(len(ways)), count):
            item_id = f"item {order}"
            newest = -1
            for step in order:
                await ways[step][0]([item_id])
                newest = max(newest, step)
                (sequence,) = await store.sequences(space, [item_id])
                assert sequence == ways[newest][1]["sequence"][0]
            got = await store.fetch(space, None, [item_id])
            assert got.found[0] == (newest != 2)
            if got.found[0]:
                assert got.records.tobytes() == ways[newest][1].tobytes()
            outcomes["orders_kept_the_newest"] += 1
    assert outcomes["orders_kept_the_newest"] == sum(perm(len(ways), count) for count in counts)
