from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from contracts.codec import ID_FP16, ID_INT8
from contracts.errors import Conflict, InvalidInput, NotFound, UnknownVersion
from contracts.manifest import IdTable
from param_server.id_rows import read_id_rows, write_id_rows
from param_server.store import Store
from tests.param_server.samples import make_id_rows, make_space

ITEMS = [f"item {i}" for i in range(10)]


async def test_a_table_is_loaded_in_chunks_sealed_and_never_changes(redis: Redis) -> None:
    store, table, rows = Store(redis), IdTable("t", ID_INT8, 16, 10), make_id_rows(10)
    assert not await store.id_table_ready(table)
    await store.load_id_rows(table, ITEMS[:6], rows[:6])
    assert not await store.id_table_ready(table)
    with pytest.raises(Conflict, match="holds 6 rows, must hold 10"):
        await store.seal_id_table(table)
    await store.load_id_rows(table, ITEMS, rows)  # resumed from the start
    await store.seal_id_table(table)
    assert await store.id_table_ready(table)
    await store.load_id_rows(table, ITEMS, rows)  # its own rows are harmless
    await store.seal_id_table(table)
    with pytest.raises(Conflict, match="is finished and lacks item 'eleventh'"):
        await store.load_id_rows(table, ["eleventh"], rows[:1])
    with pytest.raises(Conflict, match="holds another row for item 'item 3'"):
        await store.load_id_rows(table, [ITEMS[3]], make_id_rows(1, seed=9))
    got = await store.fetch(make_space(), table, ITEMS)
    assert np.array_equal(got.id_rows, rows)


async def test_rows_do_not_change_while_a_table_is_being_loaded(redis: Redis) -> None:
    store, table, rows = Store(redis), IdTable("t", ID_INT8, 16, 10), make_id_rows(10)
    await store.load_id_rows(table, ITEMS[:2], rows[:2])
    with pytest.raises(Conflict, match="another row for item 'item 1'"):
        await store.load_id_rows(table, ITEMS[1:3], make_id_rows(2, seed=1))
    got = await store.fetch(make_space(), table, ITEMS[:2])
    assert got.id_found.all()
    assert np.array_equal(got.id_rows, rows[:2])


@pytest.mark.parametrize(
    "other", [IdTable("t", ID_INT8, 8, 10), IdTable("t", ID_FP16, 16, 10), IdTable("t", ID_INT8, 16, 9)]
)
async def test_one_name_is_one_shape(redis: Redis, other: IdTable) -> None:
    store, table = Store(redis), IdTable("t", ID_INT8, 16, 10)
    await store.load_id_rows(table, ITEMS, make_id_rows(10))
    with pytest.raises(Conflict, match="ID table t is"):
        await store.load_id_rows(other, ITEMS[:1], make_id_rows(1, other.dim, codec=other.codec))
    with pytest.raises(Conflict, match="ID table t is"):
        await store.seal_id_table(other)
    with pytest.raises(Conflict, match="ID table t is"):
        await store.id_table_ready(other)


async def test_tables_are_kept_apart_and_fp16_is_read_back(redis: Redis) -> None:
    store, one, two = Store(redis), IdTable("a", ID_INT8, 16, 10), IdTable("a:item 1", ID_FP16, 4, 10)
    rows_one, rows_two = make_id_rows(10), make_id_rows(10, 4, seed=2, codec=ID_FP16)
    await store.load_id_rows(one, ITEMS, rows_one)
    await store.load_id_rows(two, ITEMS, rows_two)
    space = make_space()
    assert np.array_equal((await store.fetch(space, one, ITEMS)).id_rows, rows_one)
    assert np.array_equal((await store.fetch(space, two, ITEMS)).id_rows, rows_two)


async def test_many_rows_and_no_rows(redis: Redis) -> None:
    store, count = Store(redis), 9_000
    table, items = IdTable("many", ID_INT8, 4, count), [str(i) for i in range(count)]
    rows = make_id_rows(count, 4)
    await store.load_id_rows(table, items, rows)
    await store.seal_id_table(table)
    assert np.array_equal((await store.fetch(make_space(), table, items)).id_rows, rows)
    empty = IdTable("none", ID_INT8, 4, 0)
    await store.seal_id_table(empty)
    assert await store.id_table_ready(empty)


async def test_rows_of_another_shape_are_refused(redis: Redis) -> None:
    store, table = Store(redis), IdTable("t", ID_INT8, 16, 10)
    with pytest.raises(InvalidInput, match="dtype"):
        await store.load_id_rows(table, ITEMS, make_id_rows(10, 8))
    with pytest.raises(InvalidInput, match="must match 10 rows"):
        await store.load_id_rows(table, ITEMS[:9], make_id_rows(10))
    foreign = make_id_rows(10)
    foreign["version"] = 2
    with pytest.raises(UnknownVersion, match="ID row 0"):
        await store.load_id_rows(table, ITEMS, foreign)
    assert await redis.dbsize() == 0


@pytest.mark.parametrize(("codec", "dim"), [(ID_INT8, 16), (ID_FP16, 5)])
def test_a_file_of_id_rows_is_read_back(tmp_path: Path, codec: int, dim: int) -> None:
    rows = make_id_rows(10, dim, codec=codec)
    write_id_rows(tmp_path / "rows.parquet", ITEMS, rows)
    items, read = read_id_rows(tmp_path / "rows.parquet", codec, dim)
    assert items == ITEMS
    assert np.array_equal(read, rows)
    assert read.dtype == rows.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_file_without_rows_is_read_back(tmp_path: Path) -> None:
    write_id_rows(tmp_path / "rows.parquet", [], make_id_rows(0))
    items, rows = read_id_rows(tmp_path / "rows.parquet", ID_INT8, 16)
    assert (items, rows.shape) == ([], (0,))


def test_files_that_are_not_id_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(NotFound, match=r"rows\.parquet"):
        read_id_rows(path, ID_INT8, 16)
    path.write_bytes(b"not Parquet at all")
    with pytest.raises(InvalidInput, match=r"rows\.parquet"):
        read_id_rows(path, ID_INT8, 16)
    write_id_rows(path, ITEMS, make_id_rows(10))
    with pytest.raises(InvalidInput, match=r"rows\.parquet\.row.*fixed_size_binary\[16\]"):
        read_id_rows(path, ID_INT8, 8)
    pq.write_table(pa.table({"item_id": pa.array([1]), "row": pa.array([b"x" * 24], pa.binary(24))}), path)
    with pytest.raises(InvalidInput, match=r"rows\.parquet\.item_id"):
        read_id_rows(path, ID_INT8, 16)
    pq.write_table(pa.table({"id": pa.array(["a"])}), path)
    with pytest.raises(InvalidInput, match=r"rows\.parquet"):
        read_id_rows(path, ID_INT8, 16)
    foreign = make_id_rows(1)
    foreign["version"] = 9
    write_id_rows(path, ["a"], foreign)
    with pytest.raises(UnknownVersion, match="ID row 0"):
        read_id_rows(path, ID_INT8, 16)


def test_ids_of_a_file_are_distinct_and_match_the_rows(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="distinct"):
        write_id_rows(tmp_path / "x", ["a", "a"], make_id_rows(2))
    with pytest.raises(InvalidInput, match="must match 2 rows"):
        write_id_rows(tmp_path / "x", ["a"], make_id_rows(2))
