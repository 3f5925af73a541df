"""A space from somebody else's vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from contracts.codec import CONTENT_FP16, CONTENT_INT8, decode_vectors
from contracts.errors import InvalidInput, NotFound
from contracts.guard import Guard, GuardLimits
from contracts.items import AttributeField, attribute_slots
from contracts.space import Modality, Space
from param_server.own_vectors import (
    VectorFile,
    VectorSource,
    open_vectors,
    own_digest,
    probes_of,
    sealed_guard,
)
from param_server.store import Store
from param_server.table_load import LoadReport, load_records

DIGEST = own_digest("clip", "1")


def columns(count: int = 40, seed: int = 0, scale: float = 3.0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    text = (scale * random.normal(size=(count, 6))).astype(np.float32)
    return {
        "item_id": [f"i{n}" for n in range(count)],
        "text": pa.array(list(text), pa.list_(pa.float32())),
        "image": pa.FixedSizeListArray.from_arrays(pa.array(random.normal(size=count * 4), pa.float64()), 4),
        "genres": pa.array([["Crime", "Drama"], None, [], ["Crime"]] * (count // 4), pa.list_(pa.string())),
        "maker": ["A", None, "B|C", "A"] * (count // 4),
        "year": [1990, 1991, None, 1993] * (count // 4),
        "sold": [True, False, None, True] * (count // 4),
    }


def write(path: Path, table: dict[str, Any]) -> VectorFile:
    pq.write_table(pa.table(table), path, row_group_size=16)
    return open_vectors(path)


async def load(redis: Redis, file: VectorFile, space: Space | None = None) -> LoadReport:
    space = space or file.space(DIGEST, await Store(redis).spaces())
    source = VectorSource(file, space, await sealed_guard(redis, file, space))
    return await load_records(redis, source, own_sequence=True)


async def test_columns_become_modalities_and_attributes(redis: Redis, tmp_path: Path) -> None:
    table = columns()
    file = write(tmp_path / "v.parquet", table)
    space = file.space(DIGEST)
    assert space.modalities == (Modality("text", 6), Modality("image", 4))
    assert space.attributes == (
        AttributeField("genres", "categorical", 4),
        AttributeField("maker", "categorical"),
        AttributeField("year", "numeric"),
        AttributeField("sold", "numeric"),
    )
    report = await load(redis, file)
    assert (report.rows, report.committed, report.refused, report.sequence) == (40, 40, 0, 1)
    got = await Store(redis).fetch(space, None, table["item_id"])
    assert got.found.all()
    for name, block in zip(("text", "image"), decode_vectors(got.records, space.dims), strict=True):
        given = np.array(pa.table(table)[name].to_pylist())
        cosines = (block * given).sum(axis=1) / np.linalg.norm(given, axis=1)
        assert cosines.min() > 0.9995
    for n in range(4):
        values = {k: pa.table(table)[k][n].as_py() for k in ("genres", "maker", "year", "sold")}
        values["sold"] = None if values["sold"] is None else float(values["sold"])
        expected = attribute_slots({k: v for k, v in values.items() if v is not None}, space.attributes)
        assert got.records["attributes"][n].tolist() == expected.tolist()


async def test_changed_vectors_win_when_they_are_loaded_again(redis: Redis, tmp_path: Path) -> None:
    store = Store(redis)
    first = write(tmp_path / "v.parquet", columns())
    space = first.space(DIGEST)
    await load(redis, first)
    before = (await store.fetch(space, None, ["i0", "i1"])).records.copy()
    changed = write(tmp_path / "w.parquet", columns(count=80, seed=1))
    report = await load(redis, changed)
    assert (report.name, report.committed, report.sequence) == (space.id, 80, 2)
    after = (await store.fetch(space, None, ["i0", "i1"])).records
    assert after["sequence"].tolist() == [2, 2]
    assert (after["codes"] != before["codes"]).any()
    assert await store.count(space) == 80
    assert [s.id for s in await store.spaces()] == [space.id]


async def test_missing_modalities_are_flagged_and_bad_rows_are_named(redis: Redis, tmp_path: Path) -> None:
    table = columns()
    text = pa.array(
        [
            None,
            [0.0] * 6,
            [1.0, float("nan"), 0, 0, 0, 0],
            [1.0] * 5,
            [1.0, None, 0, 0, 0, 0],
            [1e-30] * 6,
            [3e38] * 6,
            *([1.0] * 6 for _ in range(33)),
        ],
        pa.list_(pa.float32()),
    )
    image = pa.array(
        [[1.0] * 4] * 7 + [[1.0, float("inf"), 0, 0], [1e300, 1, 1, 1]] + [[0.0] * 4] * 31,
        pa.list_(pa.float64(), 4),
    )
    ids = [*table["item_id"][:38], None, "i5"]
    ids[20] = "x" * 257
    file = write(
        tmp_path / "v.parquet",
        {
            "item_id": ids,
            "text": text,
            "image": image,
            "price": pa.array([float("nan")] * 10 + [float("inf"), 1e300] + [1.0] * 28),
        },
    )
    assert file.dims == {"text": 6, "image": 4}
    report = await load(redis, file)
    reasons = dict(report.failures)
    assert sorted(reasons) == sorted(["i10", "i11", "i2", "i3", "i4", "i5", "i7", "i8", "row 38", "x" * 257])
    assert reasons["i2"] == "text: holds a value that is null or not finite in float32"
    assert reasons["i3"] == "text: 5 values, must be 6"
    assert "image: holds a value" in reasons["i7"]
    assert "image: holds a value" in reasons["i8"]
    assert "price: does not fit" in reasons["i10"]
    assert "256" in reasons["x" * 257]
    assert reasons["i5"] == "item_id: comes twice"
    assert (report.committed, report.superseded, report.refused) == (30, 0, 10)
    got = await Store(redis).fetch(file.space(DIGEST), None, ["i0", "i1", "i5", "i6", "i30"])
    assert got.found.all()
    assert got.records["flags"].tolist() == [1, 1, 0, 0, 2]
    assert report.missing == {"text": 2, "image": 26}


async def test_an_item_without_any_vector_is_refused(redis: Redis, tmp_path: Path) -> None:
    file = write(
        tmp_path / "v.parquet",
        {"item_id": ["a", "b"], "text": pa.array([[0.0, 0.0], [1.0, 0.0]], pa.list_(pa.float32()))},
    )
    report = await load(redis, file)
    assert report.failures == [("a", "every vector is missing or zero (text)")]
    assert report.committed == 1


async def test_one_shape_belongs_to_one_version(redis: Redis, tmp_path: Path) -> None:
    file = write(tmp_path / "v.parquet", columns())
    await load(redis, file)
    spaces = await Store(redis).spaces()
    other = columns()
    del other["image"]
    narrower = write(tmp_path / "w.parquet", other)
    with pytest.raises(InvalidInput, match="another version"):
        narrower.space(DIGEST, spaces)
    with pytest.raises(InvalidInput, match="another version"):
        file.space(DIGEST, spaces, codec=CONTENT_FP16)
    assert narrower.space(own_digest("clip", "2"), spaces).dims == (6,)
    assert len({own_digest("a", "bc"), own_digest("ab", "c"), own_digest("a", "b")}) == 3
    with pytest.raises(InvalidInput, match="version"):
        own_digest("a", "")


async def test_halves_are_stored_closer(redis: Redis, tmp_path: Path) -> None:
    table = columns()
    file = write(tmp_path / "v.parquet", table)
    worst = {}
    for codec in (CONTENT_INT8, CONTENT_FP16):
        space = file.space(own_digest("clip", str(codec)), codec=codec)
        await load(redis, file, space)
        rows = (await Store(redis).fetch(space, None, table["item_id"])).records
        given = np.array(pa.table(table)["text"].to_pylist())
        given /= np.linalg.norm(given, axis=1, keepdims=True)
        worst[codec] = float(np.abs(decode_vectors(rows, space.dims)[0] - given).max())
    assert worst[CONTENT_FP16] < worst[CONTENT_INT8] / 5


async def test_the_first_loads_probes_stay(redis: Redis, tmp_path: Path) -> None:
    file, other = write(tmp_path / "v.parquet", columns()), write(tmp_path / "w.parquet", columns(seed=5))
    space = file.space(DIGEST)
    guard = await sealed_guard(redis, file, space)
    again = await sealed_guard(redis, other, space)
    assert (again.probes["text"] == guard.probes["text"]).all()
    assert (probes_of(other)["text"] != guard.probes["text"]).any()
    strict = VectorSource(file, space, Guard({}, GuardLimits(cosine_error=0.0)))
    report = await load_records(redis, strict, own_sequence=True)
    assert report.flagged == {"text": 40, "image": 40}


def test_files_that_hold_no_vectors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="lists of floats"):
        write(tmp_path / "a.parquet", {"item_id": ["a"], "year": [1]})
    with pytest.raises(InvalidInput, match="item_id"):
        write(tmp_path / "b.parquet", {"id": ["a"], "v": [[1.0]]})
    with pytest.raises(InvalidInput, match="item_id"):
        write(tmp_path / "c.parquet", {"item_id": [1], "v": [[1.0]]})
    with pytest.raises(InvalidInput, match=r"d\.parquet\.v.*no vector"):
        write(tmp_path / "d.parquet", {"item_id": ["a"], "v": pa.array([None], pa.list_(pa.float32()))})
    with pytest.raises(InvalidInput, match=r"e\.parquet\.when"):
        write(tmp_path / "e.parquet", {"item_id": ["a"], "v": [[1.0]], "when": pa.array([0], pa.date32())})
    path = tmp_path / "f.parquet"
    write(path, {"item_id": ["a"], "v": [[1.0]], "maker": ["x"]})
    named = [AttributeField("maker", "categorical", 7)]
    assert open_vectors(path, named).attributes == tuple(named)
    with pytest.raises(NotFound, match="absent"):
        open_vectors(path, [AttributeField("absent", "numeric")])
