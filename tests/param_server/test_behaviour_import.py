"""The bulk import against row by row, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from contracts.errors import InvalidInput
from contracts.events import Event
from param_server.behaviour_import import import_interactions
from param_server.behaviours import Behaviours, Count

_SEED = 3


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=97)
    return path


def log(path: Path, rows: int = 3_000) -> Path:
    rng = np.random.default_rng(_SEED)
    return write(
        path,
        user_id=[f"u{n}" for n in rng.integers(0, 60, rows)],
        item_id=rng.integers(0, 300, rows),
        timestamp=rng.integers(1_600_000_000, 1_600_000_900, rows),
        label=rng.integers(0, 2, rows),
        request_id=rng.integers(0, 99, rows),
    )


async def histories(redis: Redis) -> list[list[tuple[int | None, str]]]:
    read = await Behaviours(redis).read([f"u{n}" for n in range(60)])
    return [sorted((b.timestamp_ms, b.item_id) for b in history) for history in read]


async def test_it_equals_appending_row_by_row(redis: Redis, tmp_path: Path) -> None:
    path, store = log(tmp_path / "interactions.parquet"), Behaviours(redis, 1_000)
    said: list[tuple[int, int]] = []
    done = await import_interactions(
        store, path, tmp_path / "ledger", lambda *at: said.append(at), rows_at_once=700
    )
    imported = await histories(redis)
    rows = pq.read_table(path).to_pylist()
    liked = [Event(r["user_id"], str(r["item_id"]), r["timestamp"] * 1_000) for r in rows if r["label"]]
    assert (done.rows, done.resumed) == (3_000, 0)
    assert done.found.appended == len(set(liked))
    assert done.found.duplicates == len(liked) - len(set(liked))
    assert said[-1] == (3_000, 3_000)
    assert not (tmp_path / "ledger").exists()
    again = await import_interactions(store, path, tmp_path / "ledger")  # other batches, the same rows
    assert again.found.appended == 0
    assert (await store.append(liked)).duplicates == len(liked)  # so are live events of the same actions
    assert await histories(redis) == imported
    await redis.flushdb()
    await Behaviours(redis, 1_000).append(liked)
    assert await histories(redis) == imported


async def test_the_newest_stay(redis: Redis, tmp_path: Path) -> None:
    path, store = log(tmp_path / "interactions.parquet"), Behaviours(redis, 5)
    await import_interactions(store, path, tmp_path / "ledger", rows_at_once=500)
    rows = [r for r in pq.read_table(path).to_pylist() if r["label"]]
    kept = await histories(redis)
    for number, history in enumerate(kept):
        mine = {(r["timestamp"] * 1_000, r["item_id"]) for r in rows if r["user_id"] == f"u{number}"}
        times = sorted(time for time, _ in mine)[-5:]
        assert [time for time, _ in history] == times
    assert await store.count() == Count(60, 300)


async def test_an_interrupted_run_is_resumed(redis: Redis, tmp_path: Path) -> None:
    path, store, ledger = log(tmp_path / "interactions.parquet"), Behaviours(redis, 1_000), tmp_path / "l"

    def stop(done: int, total: int) -> None:
        if done >= 1_400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await import_interactions(store, path, ledger, stop, rows_at_once=700)
    before = (await store.count()).behaviours
    done = await import_interactions(store, path, ledger, rows_at_once=700)
    assert done.resumed == 1_400
    assert (await store.count()).behaviours == before + done.found.appended
    other = log(tmp_path / "other.parquet", rows=2_000)
    with pytest.raises(KeyboardInterrupt):
        await import_interactions(store, path, ledger, stop, rows_at_once=700)
    assert (await import_interactions(store, other, ledger)).resumed == 0  # another file


async def test_columns_of_other_types(redis: Redis, tmp_path: Path) -> None:
    path = write(
        tmp_path / "i.parquet",
        user_id=[7, 7, 7],
        item_id=pa.array(["a", "b\0é", "a"]).dictionary_encode(),
        timestamp=pa.array([1_500, 2_500, 3_500], pa.timestamp("ms")),
    )
    await import_interactions(Behaviours(redis), path, tmp_path / "ledger")
    ((first, second, third),) = await Behaviours(redis).read(["7"])
    assert [b.item_id for b in (first, second, third)] == ["a", "b\0é", "a"]
    assert [b.timestamp_ms for b in (first, second, third)] == [1_500, 2_500, 3_500]
    floats = write(tmp_path / "f.parquet", user_id=[8], item_id=[1], timestamp=[1.75], label=[True])
    await import_interactions(Behaviours(redis), floats, tmp_path / "ledger")
    assert (await Behaviours(redis).read(["8"]))[0][0].timestamp_ms == 1_750


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"user_id": ["a", None, "c"]}, "user_id", "row 1"),
        ({"user_id": ["a", "", "c"]}, "user_id", "row 1"),
        ({"item_id": ["a", "b", "x" * 257]}, "item_id", "row 2"),
        ({"item_id": [1.5, 2.5, 3.5]}, "item_id", "double"),
        ({"timestamp": [1, -1, 2]}, "timestamp", "row 1"),
        ({"timestamp": [1, 2, 1_700_000_000_000]}, "timestamp", "row 2"),  # milliseconds taken for seconds
        ({"timestamp": [1.0, float("nan"), 2.0]}, "timestamp", "row 1"),
        ({"timestamp": [1, 2, 2**62]}, "timestamp", "row 2"),
        ({"timestamp": ["1", "2", "3"]}, "timestamp", "string"),
        ({"label": [0, 1, 2]}, "label", "row 2"),
        ({"label": ["0", "1", "1"]}, "label", "string"),
    ],
)
async def test_bad_rows_are_named(
    redis: Redis, tmp_path: Path, changes: dict[str, list[object]], field: str, value: str
) -> None:
    good: dict[str, list[object]] = {
        "user_id": ["a", "b", "c"],
        "item_id": [1, 2, 3],
        "timestamp": [1, 2, 3],
        "label": [1, 1, 0],
    }
    path = write(tmp_path / "i.parquet", **{**good, **changes})
    with pytest.raises(InvalidInput) as caught:
        await import_interactions(Behaviours(redis), path, tmp_path / "ledger")
    assert caught.value.field == f"i.parquet: {field}"
    assert value in caught.value.value
    assert await redis.dbsize() == 0


async def test_files_that_are_none(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "i.parquet").write_bytes(b"no parquet")
    for path in (tmp_path / "i.parquet", tmp_path / "absent.parquet"):
        with pytest.raises(InvalidInput, match="cannot be read"):
            await import_interactions(Behaviours(redis), path, tmp_path / "ledger")
    lacking = write(tmp_path / "l.parquet", user_id=["a"], item_id=["b"])
    with pytest.raises(InvalidInput, match="lack timestamp"):
        await import_interactions(Behaviours(redis), lacking, tmp_path / "ledger")
