"""Scans see every row once, whatever its bucket has become; inspection counts what lies there."""

from __future__ import annotations

import dataclasses

import numpy as np
from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.manifest import IdTable
from param_server import keys
from param_server.inspection import inspect_tables
from param_server.scan import scan
from param_server.store import Store
from tests.param_server.samples import make_deletes, make_id_rows, make_space, make_window


async def test_every_row_is_seen_once_in_packed_and_in_outgrown_buckets(redis: Redis) -> None:
    store, space = Store(redis), dataclasses.replace(make_space(), buckets=3)
    await store.create_space(space)
    ids = [f"item {i}" for i in range(4_000)]  # 1,333 of a bucket: beyond a packed block
    await store.commit_window(make_window(space, ids, range(1, 4_001)))
    family = keys.records(space.id, space.buckets)
    assert await redis.object("encoding", family.key_of(b"item 0").decode()) == b"hashtable"
    seen: dict[bytes, bytes] = {}
    count = 0
    async for part in scan(redis, family):
        seen.update(zip(part.ids, part.values, strict=True))
        count += len(part.ids)
    assert count == 4_000
    assert sorted(seen) == sorted(item.encode() for item in ids)
    some = [part async for part in scan(redis, family, np.array([1]))]
    assert some[-1].buckets == 1
    assert {i for part in some for i in part.ids} == {
        i for i in seen if family.buckets_of([i]).tolist() == [1]
    }


async def test_inspection_tells_what_is_there(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    window = make_window(space, ["a", "b", "c"], [1, 2, 3])
    window.records["flags"][0] = 0b010
    window.records["guard"][1] = 0b101
    await store.commit_window(window)
    await store.commit_window(make_deletes(space, ["c"], [9]))
    await store.load_id_rows(IdTable("open", ID_INT8, 16, 5), ["a", "b"], make_id_rows(2))
    done = IdTable("sealed", ID_INT8, 16, 2)
    await store.load_id_rows(done, ["a", "b"], make_id_rows(2))
    await store.seal_id_table(done)
    state = await inspect_tables(redis, scanned=True)
    assert not state.servers[0].evicts
    assert state.servers[0].used_memory > 0
    [only] = state.spaces
    assert (only.space, only.live, only.high_water) == (space, 2, 9)
    assert only.contents is not None
    assert (only.contents.live, only.contents.deleted) == (2, 1)
    assert only.contents.missing == {"text": 0, "image": 1, "fused": 0}
    assert only.contents.flagged == {"text": 1, "image": 0, "fused": 1}
    assert [(s.table.name, s.loaded, s.sealed) for s in state.id_tables] == [
        ("open", 2, False),
        ("sealed", 2, True),
    ]
    assert (await inspect_tables(redis)).spaces[0].contents is None


async def test_bytes_of_a_row_are_the_servers(redis: Redis) -> None:
    store, space = Store(redis), dataclasses.replace(make_space(dim=64), buckets=64)
    await store.create_space(space)
    ids = [f"item {i:04d}" for i in range(768)]
    await store.commit_window(make_window(space, ids, range(1, 769)))
    memory = (await inspect_tables(redis)).spaces[0].memory
    assert memory.rows_per_bucket == 12
    assert memory.packed == 1.0
    payload = space.dtype.itemsize + len(ids[0])
    assert payload < memory.bytes_per_row < 1.3 * payload
