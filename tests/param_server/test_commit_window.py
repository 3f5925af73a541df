"""Invariant 3: the visible sequence number of an item never goes back."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from contracts.codec import is_tombstone, stored_bytes
from contracts.window import Window
from param_server.store import Store
from tests.param_server.samples import make_deletes, make_records, make_space, make_tombstones, make_window

ITEMS = ["a", "{b}", "c\0", "\U0001f9e6"]
SEQUENCES = st.one_of(
    st.integers(0, 5),
    st.sampled_from([2**32 - 1, 2**32, 2**32 + 1, 2**53, 2**53 + 1, 2**53 + 2, 2**63, 2**64 - 2, 2**64 - 1]),
)
WRITES = st.tuples(st.sampled_from(ITEMS), SEQUENCES, st.booleans(), st.integers(0, 1))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(windows=st.lists(st.lists(WRITES, max_size=6), max_size=8))
async def test_any_interleaving_agrees_with_the_model(
    redis: Redis, windows: list[list[tuple[str, int, bool, int]]]
) -> None:
    store, space = Store(redis), make_space(dim=2)
    await store.create_space(space)
    model: dict[str, tuple[int, bytes]] = {}
    live: set[str] = set()
    for writes in windows:
        records = np.zeros(len(writes), space.dtype)
        for i, (_, sequence, delete, seed) in enumerate(writes):
            row = make_tombstones(space, [sequence]) if delete else make_records(space, [sequence], seed)
            records[i] = row[0]
        window = Window(space, [w[0] for w in writes], records, 0)
        expected = []
        for (item, sequence, delete, _), stored in zip(writes, stored_bytes(records), strict=True):
            newer = item not in model or sequence > model[item][0]
            expected.append(newer or model[item] == (sequence, stored))
            if newer:
                model[item] = (sequence, stored)
                live = live - {item} if delete else live | {item}
        before = await store.sequences(space, ITEMS)
        assert (await store.commit_window(window)).tolist() == expected
        after = await store.sequences(space, ITEMS)
        assert (after >= before).all()
        assert after.tolist() == [model[i][0] if i in model else 0 for i in ITEMS]
        assert await store.count(space) == len(live)
        got = await store.fetch(space, None, ITEMS)
        assert got.found.tolist() == [i in live for i in ITEMS]
        assert all(got.records[k].tobytes() == model[i][1] for k, i in enumerate(ITEMS) if i in live)


@pytest.mark.parametrize("old", [0, 1, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 2])
async def test_one_more_is_newer_and_one_less_is_older(redis: Redis, old: int) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    new = old + 1
    assert (await store.commit_window(make_window(space, ["a"], [old], seed=1))).all()
    assert (await store.commit_window(make_window(space, ["a"], [new], seed=2))).all()
    assert not (await store.commit_window(make_window(space, ["a"], [old], seed=1))).any()
    assert (await store.sequences(space, ["a"])).tolist() == [new]
    got = await store.fetch(space, None, ["a"])
    assert got.records[0] == make_records(space, [new], seed=2)[0]


async def test_an_equal_sequence_needs_equal_bytes(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    window = make_window(space, ["a"], [5], seed=1)
    assert (await store.commit_window(window)).all()
    assert (await store.commit_window(window)).all()
    assert not (await store.commit_window(make_window(space, ["a"], [5], seed=2))).any()
    assert not (await store.commit_window(make_deletes(space, ["a"], [5]))).any()
    assert (await store.fetch(space, None, ["a"])).records[0] == window.records[0]


async def test_a_delete_is_not_undone_by_an_older_push(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    await store.commit_window(make_window(space, ["a"], [5]))
    delete = make_deletes(space, ["a"], [6])
    assert (await store.commit_window(delete)).all()
    assert (await store.commit_window(delete)).all()
    assert not (await store.commit_window(make_window(space, ["a"], [5]))).any()
    assert not (await store.fetch(space, None, ["a"])).found.any()
    assert (await store.commit_window(make_window(space, ["a"], [7]))).all()
    assert (await store.fetch(space, None, ["a"])).found.all()


async def test_an_item_twice_in_a_window_ends_with_the_newer(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    accepted = await store.commit_window(make_window(space, ["a", "a", "a"], [3, 9, 4]))
    assert accepted.tolist() == [True, True, False]
    assert (await store.sequences(space, ["a"])).tolist() == [9]
    assert await store.count(space) == 1


async def test_concurrent_writers_never_take_a_reader_back(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    items = [f"{i}" for i in range(20)]
    highest = dict.fromkeys(items, 0)
    done = asyncio.Event()

    async def write(seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(40):
            chosen = generator.sample(items, 10)
            sequences = [generator.randrange(1, 2**64) for _ in chosen]
            deletes = generator.random() < 0.3
            window = (make_deletes if deletes else make_window)(space, chosen, sequences)
            await store.commit_window(window)
            for item, sequence in zip(chosen, sequences, strict=True):
                highest[item] = max(highest[item], sequence)

    async def read() -> int:
        seen = np.zeros(len(items), np.uint64)
        reads = 0
        while not done.is_set():
            now = await store.sequences(space, items)
            assert (now >= seen).all()
            seen, reads = now, reads + 1
        return reads

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(seed) for seed in range(4)))
    done.set()
    assert await reader > 5
    assert (await store.sequences(space, items)).tolist() == [highest[i] for i in items]
    got = await store.fetch(space, None, items)
    assert await store.count(space) == int(got.found.sum())
    assert not is_tombstone(got.records).any()


async def test_the_high_water_is_the_newest_sequence_of_any_space(redis: Redis) -> None:
    """u64: exact where doubles are not. A refused record does not move it."""
    store, one, two = Store(redis), make_space(dim=2), make_space(dim=4)
    await store.create_space(one)
    await store.create_space(two)
    assert await store.high_water() == 0
    for space, sequences, water in [
        (one, [3, 9, 4], 9),
        (two, [5, 6, 7], 9),
        (one, [0, 2**32, 1], 2**32),
        (one, [2**53, 2**53 + 1, 0], 2**53 + 1),
        (two, [2**32 + 7, 2**53, 8], 2**53 + 1),
        (one, [2**64 - 1, 2**64 - 2, 10], 2**64 - 1),
        (two, [2**63, 2**53 + 5, 9], 2**64 - 1),
    ]:
        await store.commit_window(make_window(space, ["a", "b", "c"], sequences))
        assert await store.high_water() == water
