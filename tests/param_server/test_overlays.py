"""An overlay of an ID table: read over its base in one round trip, and never without it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import ID_FP16, ID_INT8
from contracts.errors import Conflict
from contracts.manifest import IdTable, parse_generation
from param_server.generations import Generations
from param_server.store import Store
from tests.param_server.samples import make_generation, make_id_rows, make_space, make_window, seal_ranker

ITEMS = [f"item {i}" for i in range(10)]
BASE = IdTable("base", ID_INT8, 16, 8)
OVER = IdTable("over", ID_INT8, 16, 3, "base")
CHANGED = [ITEMS[2], ITEMS[5], ITEMS[9]]  # two of the base's and a new one


async def test_a_row_of_the_overlay_hides_the_bases(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    old, new = make_id_rows(8), make_id_rows(3, seed=7)
    await store.create_space(space)
    await store.commit_window(make_window(space, ITEMS[:4], range(1, 5)))
    await store.load_id_rows(BASE, ITEMS[:8], old)
    await store.seal_id_table(BASE)
    await store.load_id_rows(OVER, CHANGED, new)
    await store.seal_id_table(OVER)
    assert await store.id_table_ready(OVER)
    before = await redis.info("commandstats")
    got = await store.fetch(space, OVER, ITEMS)
    after = await redis.info("commandstats")
    changed = {
        name
        for name, now in after.items()
        if now["calls"] != before.get(name, {"calls": 0})["calls"] and name != "cmdstat_info"
    }
    assert changed == {"cmdstat_hget"}  # records, overlay and base: one round trip of reads
    assert got.id_found.tolist() == [True] * 8 + [False, True]
    assert got.found.tolist() == [True] * 4 + [False] * 6
    wanted = np.concatenate([old, np.zeros(2, old.dtype)])
    wanted[[2, 5, 9]] = new
    assert got.id_rows.tobytes() == wanted.tobytes()
    below = await store.fetch(space, BASE, ITEMS)
    assert below.id_rows[:8].tobytes() == old.tobytes()  # the base still is what it was
    assert below.id_found.tolist() == [True] * 8 + [False] * 2


async def test_an_overlay_needs_a_sealed_full_base_of_its_shape(redis: Redis) -> None:
    store = Store(redis)
    await store.load_id_rows(OVER, CHANGED, make_id_rows(3))
    with pytest.raises(Conflict, match="base base is not loaded and sealed"):
        await store.seal_id_table(OVER)
    await store.load_id_rows(BASE, ITEMS[:8], make_id_rows(8))
    with pytest.raises(Conflict, match="base base is not loaded and sealed"):
        await store.seal_id_table(OVER)
    assert not await store.id_table_ready(OVER)
    await store.seal_id_table(BASE)
    await store.seal_id_table(OVER)
    second = IdTable("second", ID_INT8, 16, 0, "over")
    for other in (second, IdTable("fp16", ID_FP16, 16, 0, "base"), IdTable("narrow", ID_INT8, 8, 0, "base")):
        with pytest.raises(Conflict, match="cannot lie over"):
            await store.seal_id_table(other)
    with pytest.raises(Conflict, match="ID table over is"):
        await store.id_table_ready(dataclasses.replace(OVER, base=None))


async def test_a_generation_says_over_what_its_rows_lie(redis: Redis, tmp_path: Path) -> None:
    store, space, generations = Store(redis), make_space(), Generations(redis)
    await store.create_space(space)
    for table, items in ((BASE, ITEMS[:8]), (OVER, CHANGED)):
        await store.load_id_rows(table, items, make_id_rows(len(items)))
        await store.seal_id_table(table)
    one = make_generation(seal_ranker(tmp_path / "full", space, 3), space, OVER)
    with pytest.raises(Conflict, match=r"base \(3, 2, 16, 'base'\), the ranker needs \(3, 2, 16, None\)"):
        await generations.publish(one)
    bundle = seal_ranker(tmp_path / "over", space, 3, id_base="base")
    over = make_generation(bundle, space, OVER)
    assert await generations.publish(over) == over.id
    assert await generations.get(over.id) == over
    assert parse_generation(over.to_bytes()).id_table.base == "base"
    with pytest.raises(Conflict, match="the ranker needs"):
        await generations.publish(make_generation(bundle, space, BASE))
