from __future__ import annotations

import asyncio

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import CONTENT_FP16, HEADER_BYTES, ID_INT8, encode_records, id_row_dtype
from contracts.errors import InvalidInput, NotFound, SpaceMismatch, TooLarge, Unavailable, UnknownVersion
from contracts.manifest import IdTable
from contracts.space import Modality, Space
from contracts.window import Window
from param_server import keys
from param_server.rows import BrokenRow
from param_server.store import MAX_FETCH, MAX_WINDOW, Store
from tests.param_server.samples import make_deletes, make_id_rows, make_records, make_space, make_window

STRANGE_IDS = [
    "{a}",
    "}{",
    "{}",
    "nul\0",
    "\0",
    "\U0001f9e6\U0001f3fd",
    "é" * 128,
    "x" * 256,
    "a:b",
    "\r\n",
    " ",
]


async def filled(redis: Redis, items: list[str]) -> tuple[Store, Space]:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    await store.commit_window(make_window(space, items, range(1, len(items) + 1)))
    return store, space


async def test_stored_bytes_of_a_record_and_of_a_tombstone(redis: Redis) -> None:
    store, space = Store(redis), make_space(dim=2)
    await store.create_space(space)
    window = make_window(space, ["a"], [0x0102030405060708])
    window.records["codes"][0] = [127, -127, 1, 2, 3, 4]
    window.records["inv_norm"][0] = [1.0, 2.0, 0.5]
    await store.commit_window(window)
    key, stored = await row_of(redis, keys.records(space.id, space.buckets), "a")
    assert stored == bytes.fromhex("01010000 0807060504030201 0000803f 00000040 0000003f 7f81 0102 0304")
    await store.commit_window(make_deletes(space, ["a"], [0x0102030405060709]))
    assert await redis.hget(key, "a") == bytes.fromhex("01018000 0907060504030201")
    assert await redis.ttl(key) == -1


async def row_of(redis: Redis, family: keys.Family, item: str) -> tuple[str, bytes]:
    """The key of the hash that an item's row is in, and the row."""
    key = family.key_of(item.encode()).decode()
    stored = await redis.hget(key, item)
    assert isinstance(stored, bytes)
    return key, stored


async def test_a_space_is_created_once_and_read_back(redis: Redis) -> None:
    store, one, two = Store(redis), make_space(), make_space(dim=4)
    for space in (one, two, one):
        await store.create_space(space)
    assert await store.space(one.id) == one
    assert await store.spaces() == sorted((one, two), key=lambda s: s.id)
    with pytest.raises(NotFound, match="no space"):
        await store.space("0" * 16)


async def test_an_id_that_holds_another_header_is_refused(redis: Redis) -> None:
    store, one, two = Store(redis), make_space(), make_space()
    await redis.hset(keys.spaces().decode(), one.id, two.header())
    with pytest.raises(SpaceMismatch, match=two.encoder_digest):
        await store.create_space(one)
    with pytest.raises(SpaceMismatch, match=two.encoder_digest):
        await store.commit_window(make_window(one, ["a"], [1]))


@pytest.mark.parametrize("buckets", [1, 7, 300, 5_000])
async def test_any_count_of_buckets_keeps_rows_apart(redis: Redis, buckets: int) -> None:
    store = Store(redis)
    space = Space("e" * 64, (Modality("text", 8),), buckets=buckets)
    items = [f"item {i}" for i in range(700)]
    await store.create_space(space)
    assert (await store.commit_window(make_window(space, items, range(1, 701)))).all()
    got = await store.fetch(space, None, items)
    assert got.records["sequence"].tolist() == list(range(1, 701))
    assert await store.count(space) == 700
    assert await store.high_water() == 700


async def test_a_space_that_was_not_created_to_its_end_is_refused_until_it_is(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await redis.hset(keys.spaces().decode(), space.id, space.header())
    window = make_window(space, ["a"], [1])
    with pytest.raises(NotFound, match="shard"):
        await store.commit_window(window)
    await store.create_space(space)
    assert (await store.commit_window(window)).all()


async def test_a_commit_without_its_space_is_refused(redis: Redis) -> None:
    space = make_space()
    with pytest.raises(NotFound, match=space.id):
        await Store(redis).commit_window(make_window(space, ["a"], [1]))
    assert await redis.dbsize() == 0


async def test_fetch_is_aligned_and_masks_what_is_missing(redis: Redis) -> None:
    items = [f"item {i}" for i in range(40)]
    store, space = await filled(redis, items)
    await store.commit_window(make_deletes(space, items[3:5], [100, 101]))
    table = IdTable("ranker/1", ID_INT8, 16, 20)
    id_rows = make_id_rows(20)
    await store.load_id_rows(table, items[10:30], id_rows)
    asked = ["unknown", *items[::-1], "another"]
    got = await store.fetch(space, table, asked)
    expected = make_records(space, range(1, 41))
    for k, item in enumerate(asked):
        i = items.index(item) if item in items else -1
        assert got.found[k] == (i >= 0 and i not in (3, 4))
        assert got.id_found[k] == (10 <= i < 30)
        assert got.records[k] == (expected[i] if got.found[k] else np.zeros(1, space.dtype)[0])
        assert got.id_rows[k] == (id_rows[i - 10] if got.id_found[k] else np.zeros(1, table_dtype(table))[0])
    assert got.found.sum() == 38
    assert got.id_found.sum() == 20


def table_dtype(table: IdTable) -> np.dtype[np.void]:
    return id_row_dtype(table.codec, table.dim)


async def test_fetch_of_all_present_and_without_an_id_table(redis: Redis) -> None:
    items = [f"{i}" for i in range(300)]
    store, space = await filled(redis, items)
    got = await store.fetch(space, None, items)
    assert got.found.all()
    assert np.array_equal(got.records, make_records(space, range(1, 301)))
    assert not got.id_found.any()
    assert got.id_rows.shape == got.id_found.shape == (300,)


async def test_fetch_is_one_round_trip_and_none_for_nothing(redis: Redis) -> None:
    items = [f"{i}" for i in range(3000)]
    store, space = await filled(redis, items)
    table = IdTable("t", ID_INT8, 16, 3000)
    await store.load_id_rows(table, items, make_id_rows(3000))
    await redis.config_resetstat()
    got = await store.fetch(space, table, items)
    stats = await redis.info("commandstats")
    assert (got.found & got.id_found).all()
    assert stats["cmdstat_hget"]["calls"] == 6001  # and whether the ID table is there
    assert set(stats) <= {"cmdstat_hget", "cmdstat_config|resetstat", "cmdstat_info"}
    await redis.config_resetstat()
    none = await store.fetch(space, table, [])
    assert "cmdstat_hget" not in await redis.info("commandstats")
    assert (len(none.records), len(none.found), len(none.id_rows), len(none.id_found)) == (0, 0, 0, 0)
    assert none.records.dtype == space.dtype
    assert none.id_rows.dtype == table_dtype(table)


async def test_rows_lie_in_packed_blocks(redis: Redis) -> None:
    items = [f"{i}" + "x" * 250 for i in range(100)]
    store, _ = await filled(redis, items)
    await store.load_id_rows(IdTable("t", ID_INT8, 16, 100), items, make_id_rows(100))
    buckets = [key async for key in redis.scan_iter(match="rc2:[ri]:*", count=1000)]
    assert sum([await redis.hlen(key) for key in buckets]) == 200
    assert {await redis.object("encoding", key) for key in buckets} == {b"listpack"}


async def test_the_first_id_table_that_has_a_row_gives_it(redis: Redis) -> None:
    store, space = await filled(redis, ["a", "b", "c"])
    overlay, base = IdTable("new", ID_INT8, 16, 1), IdTable("old", ID_INT8, 16, 2)
    await store.load_id_rows(overlay, ["b"], make_id_rows(1, seed=1))
    await store.load_id_rows(base, ["a", "b"], make_id_rows(2, seed=2))
    got = await store.fetch(space, [overlay, base], ["a", "b", "c"])
    assert got.id_found.tolist() == [True, True, False]
    assert got.id_rows[0] == make_id_rows(2, seed=2)[0]
    assert got.id_rows[1] == make_id_rows(1, seed=1)[0]
    assert got.found.all()
    with pytest.raises(InvalidInput, match="one codec and dim"):
        await store.fetch(space, [overlay, IdTable("old", ID_INT8, 8, 2)], ["a"])


async def test_a_space_of_halves_is_written_and_read(redis: Redis) -> None:
    store = Store(redis)
    space = Space("f" * 64, (Modality("text", 8), Modality("image", 4)), codec=CONTENT_FP16)
    await store.create_space(space)
    vectors = [np.eye(3, 8, dtype=np.float32), np.eye(3, 4, dtype=np.float32)]
    rows = encode_records(vectors, np.full(3, 5, np.uint64), np.zeros((3, 0), np.uint32), CONTENT_FP16)
    assert (await store.commit_window(Window(space, ["a", "b", "c"], rows, 1))).all()
    assert (await store.commit_window(make_deletes(space, ["b"], [6]))).all()
    got = await store.fetch(space, None, ["c", "a", "b", "d"])
    assert got.found.tolist() == [True, True, False, False]
    assert got.records[:2].tobytes() == rows[[2, 0]].tobytes()
    assert (await store.sequences(space, ["a", "b", "d"])).tolist() == [5, 6, 0]
    key, stored = await row_of(redis, keys.records(space.id, space.buckets), "a")
    await redis.hset(key, "a", b"\1\1" + stored[2:])
    with pytest.raises(UnknownVersion, match=r"content_int8.*content_fp16"):
        await store.fetch(space, None, ["a"])
    with pytest.raises(UnknownVersion, match="'a'"):
        await store.commit_window(Window(space, ["a"], rows[:1], 1))


async def test_strange_ids_are_kept_apart(redis: Redis) -> None:
    store, space = await filled(redis, STRANGE_IDS)
    got = await store.fetch(space, None, STRANGE_IDS[::-1])
    assert got.found.all()
    assert got.records["sequence"].tolist() == list(range(len(STRANGE_IDS), 0, -1))


async def test_spaces_do_not_see_each_other(redis: Redis) -> None:
    store, one = await filled(redis, ["a"])
    two = make_space()
    await store.create_space(two)
    assert not (await store.fetch(two, None, ["a"])).found.any()
    assert (await store.fetch(one, None, ["a"])).found.all()


@pytest.mark.parametrize("offset", [0, 1])
async def test_an_unknown_version_or_codec_in_the_table_is_refused(redis: Redis, offset: int) -> None:
    store, space = await filled(redis, ["a", "b"])
    key, stored = await row_of(redis, keys.records(space.id, space.buckets), "b")
    await redis.hset(key, "b", stored[:offset] + b"\x07" + stored[offset + 1 :])
    with pytest.raises(UnknownVersion, match="version"):
        await store.fetch(space, None, ["a", "b"])
    with pytest.raises(UnknownVersion, match="version"):
        await store.sequences(space, ["a", "b"])
    with pytest.raises(UnknownVersion, match="'b'"):
        await store.commit_window(make_window(space, ["a", "b"], [10, 10]))
    assert (await store.sequences(space, ["a"])).tolist() == [10]  # of another shard


async def test_one_row_of_an_unknown_version_stops_its_shard_whole(redis: Redis) -> None:
    store, space = Store(redis), Space("d" * 64, (Modality("text", 8),), buckets=1)
    await store.create_space(space)
    await store.commit_window(make_window(space, ["a", "b"], [1, 1]))
    key, stored = await row_of(redis, keys.records(space.id, space.buckets), "b")
    await redis.hset(key, "b", b"\x07" + stored[1:])
    with pytest.raises(UnknownVersion, match="'b'"):
        await store.commit_window(make_window(space, ["a", "b"], [10, 10]))
    assert (await store.sequences(space, ["a"])).tolist() == [1]


async def test_a_row_of_an_unknown_version_and_another_length_is_of_an_unknown_version(redis: Redis) -> None:
    store, space = await filled(redis, ["a"])
    key, _ = await row_of(redis, keys.records(space.id, space.buckets), "a")
    await redis.hset(key, "a", b"\x02\x01" + bytes(90))
    with pytest.raises(UnknownVersion, match=r"\(2, 1\)"):
        await store.fetch(space, None, ["a"])


async def test_a_row_of_a_wrong_length_is_named(redis: Redis) -> None:
    store, space = await filled(redis, ["a", "bad"])
    key, whole = await row_of(redis, keys.records(space.id, space.buckets), "bad")
    for broken in (whole[:-1], whole + b"\0", whole[:5]):
        await redis.hset(key, "bad", broken)
        with pytest.raises(BrokenRow, match=f"'bad': {len(broken)} bytes"):
            await store.fetch(space, None, ["a", "bad"])
    with pytest.raises(BrokenRow, match="shorter than a header"):
        await store.commit_window(make_window(space, ["bad"], [10]))
    with pytest.raises(BrokenRow, match="shorter than"):
        await store.sequences(space, ["bad"])
    await redis.hset(key, "bad", whole[:HEADER_BYTES])
    with pytest.raises(BrokenRow, match="'bad': a bare header that is not a tombstone"):
        await store.fetch(space, None, ["a", "bad"])
    await redis.hset(key, "bad", whole[:2] + b"\x80" + whole[3:])
    with pytest.raises(BrokenRow, match="'bad': a tombstone that carries a body"):
        await store.fetch(space, None, ["a", "bad"])


async def test_a_broken_id_row_is_refused(redis: Redis) -> None:
    store, space = await filled(redis, ["a", "b"])
    table = IdTable("t", ID_INT8, 16, 2)
    await store.load_id_rows(table, ["a", "b"], make_id_rows(2))
    key, whole = await row_of(redis, keys.id_rows("t", 2), "b")
    await redis.hset(key, "b", whole[:-1])
    with pytest.raises(BrokenRow, match="'b': 23 bytes, must be 24"):
        await store.fetch(space, table, ["a", "b"])
    await redis.hset(key, "b", b"\x09" + whole[1:])
    with pytest.raises(UnknownVersion, match="ID row"):
        await store.fetch(space, table, ["a", "b"])


async def test_sizes_are_bounded_and_inputs_named(redis: Redis) -> None:
    store, space = await filled(redis, ["a"])
    many = [str(i) for i in range(MAX_WINDOW + 1)]
    with pytest.raises(TooLarge, match="4097 records"):
        await store.commit_window(make_window(space, many, range(len(many))))
    assert (await store.commit_window(make_window(space, many[:-1], range(1, len(many))))).all()
    with pytest.raises(TooLarge, match="ids exceed"):
        await store.fetch(space, None, ["a"] * (MAX_FETCH + 1))
    with pytest.raises(InvalidInput, match=r"item_ids\[1\]"):
        await store.fetch(space, None, ["a", ""])
    with pytest.raises(InvalidInput, match=r"item_ids\[0\]"):
        await store.commit_window(make_window(space, [""], [1]))
    foreign = make_window(space, ["a"], [99])
    foreign.records["version"] = 3
    with pytest.raises(UnknownVersion, match="window"):
        await store.commit_window(foreign)


async def test_sequences_and_count_see_deletes(redis: Redis) -> None:
    store, space = await filled(redis, ["a", "b", "c"])
    assert await store.count(space) == 3
    await store.commit_window(make_deletes(space, ["b", "never seen"], [7, 9]))
    assert await store.count(space) == 2
    sequences = await store.sequences(space, ["a", "b", "absent", "never seen"])
    gone = (await store.deleted(space, ["a", "b", "absent", "never seen"])).tolist()
    found = (await store.fetch(space, None, ["a", "b", "absent", "never seen"])).found.tolist()
    assert gone == [s > 0 and not f for s, f in zip(sequences.tolist(), found, strict=True)]
    assert any(gone)
    assert sequences.dtype == np.uint64
    assert sequences.tolist() == [1, 7, 0, 9]
    await store.commit_window(make_window(space, ["b"], [8]))
    assert await store.count(space) == 3
    assert await store.count(make_space()) == 0


async def test_an_empty_window_is_accepted(redis: Redis) -> None:
    store, space = await filled(redis, ["a"])
    assert (await store.commit_window(make_window(space, [], []))).shape == (0,)


async def test_concurrent_fetches_and_cancelled_ones_never_mix_replies(redis: Redis) -> None:
    items = [f"{i}" for i in range(500)]
    store, space = await filled(redis, items)

    async def read(start: int) -> None:
        got = await store.fetch(space, None, items[start : start + 50])
        assert got.records["sequence"].tolist() == list(range(start + 1, start + 51))

    tasks = [asyncio.create_task(read(i % 450)) for i in range(0, 4000, 10)]
    for task in tasks[::7]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in done[::7])
    assert [result for i, result in enumerate(done) if i % 7 and result is not None] == []
    await read(3)


async def test_records_of_another_space_cannot_be_committed() -> None:
    space = make_space()
    with pytest.raises(SpaceMismatch):
        Window(space, ["a"], make_records(make_space(dim=4), [1]), 0)


async def test_nothing_is_written_to_a_server_that_drops_rows(redis: Redis) -> None:
    store, space = Store(redis), make_space()
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        for refused in (
            store.create_space(space),
            store.load_id_rows(IdTable("t", ID_INT8, 16, 1), ["a"], make_id_rows(1)),
        ):
            with pytest.raises(Unavailable, match="run: CONFIG SET maxmemory-policy noeviction"):
                await refused
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
    assert await store.spaces() == []
    await store.create_space(space)
