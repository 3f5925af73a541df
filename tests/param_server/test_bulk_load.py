from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from contracts.codec import Rows
from contracts.errors import InvalidInput, NotFound, UnknownVersion
from param_server.bulk_load import bulk_load
from param_server.columns import binary_column
from param_server.store import Store
from tests.param_server.samples import make_records, make_space, make_window


def write(path: Path, ids: list[str], records: Rows) -> Path:
    pq.write_table(pa.table({"item_id": pa.array(ids, pa.string()), "record": binary_column(records)}), path)
    return path


async def test_files_are_loaded_and_newer_records_stay(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    await store.commit_window(make_window(space, ["7"], [10**9], seed=3))
    ids = [f"{i}" for i in range(20_000)]
    old, new = make_records(space, range(1, 20_001)), make_records(space, range(30_001, 40_001), seed=1)
    files = [write(tmp_path / "new", ids[:10_000], new), write(tmp_path / "old", ids, old)]
    seen: list[int] = []
    report = await bulk_load(store, space, files, lambda r: seen.append(r.records))
    assert report.records == 30_000
    assert seen == sorted(seen)
    assert seen[-1] == 30_000
    assert await store.count(space) == 20_000
    expected = np.concatenate([new, old[10_000:]])
    expected[7] = make_records(space, [10**9], seed=3)[0]
    for at in (0, 10_000):
        got = await store.fetch(space, None, ids[at : at + 10_000])
        assert np.array_equal(got.records, expected[at : at + 10_000])
    again = await bulk_load(store, space, files[:1])
    assert (again.records, again.accepted) == (10_000, 9_999)


async def test_what_is_no_file_of_records_is_refused_by_name(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"not Parquet at all")
    with pytest.raises(InvalidInput, match=r"rows\.parquet"):
        await bulk_load(store, space, [path])
    other = make_space(dim=4)
    with pytest.raises(InvalidInput, match=r"rows\.parquet\.record"):
        await bulk_load(store, space, [write(path, ["a"], make_records(other, [1]))])
    foreign = make_records(space, [1])
    foreign["version"] = 9
    with pytest.raises(UnknownVersion, match=r"rows\.parquet"):
        await bulk_load(store, space, [write(path, ["a"], foreign)])
    with pytest.raises(NotFound, match="space"):
        await bulk_load(store, make_space(), [write(path, ["a"], make_records(space, [1]))])
    assert await store.count(space) == 0
