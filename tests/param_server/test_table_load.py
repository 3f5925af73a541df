"""Load, export and verify: what goes in comes out, differences are found, an interrupted load goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from redis.asyncio import Redis

from contracts.codec import ID_FP16, ID_INT8, Rows
from contracts.errors import Conflict, InvalidInput, NotFound, SpaceMismatch, Unavailable, UnknownVersion
from contracts.manifest import IdTable
from contracts.space import Space
from contracts.window import Window
from param_server import keys
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.export import export_id_table, export_space
from param_server.id_rows import read_id_rows, write_id_rows
from param_server.id_tables import id_table
from param_server.load_ledger import Progress
from param_server.offline import OfflineTable
from param_server.record_file import RecordFiles, RecordFileWriter
from param_server.rows import BrokenRow
from param_server.settings import StoreSettings
from param_server.store import MAX_WINDOW, Store
from param_server.table_load import load_id_rows, load_records
from param_server.verification import verify_id_table, verify_space
from tests.param_server.samples import (
    make_deletes,
    make_id_rows,
    make_records,
    make_space,
    make_tombstones,
    make_window,
)

COUNT = 3 * MAX_WINDOW + 100


def big_space() -> Space:
    return dataclasses.replace(make_space(dim=4), buckets=512)


def write_file(path: Path, space: Space, ids: list[str], records: Rows) -> Path:
    with RecordFileWriter(path, space) as writer:
        for start in range(0, len(ids), 5_000):
            writer.write(ids[start : start + 5_000], records[start : start + 5_000])
    return path


async def test_what_is_exported_can_be_loaded_into_an_empty_server(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    ids = [f"item {i}" for i in range(700)] + ["nul\0", "{braces}", "é" * 128]
    await store.commit_window(make_window(space, ids, range(1, 704)))
    await store.commit_window(make_deletes(space, ids[:10], range(1_001, 1_011)))
    seen: list[tuple[int, int]] = []
    path = tmp_path / "out" / "space.parquet"
    exported = await export_space(redis, space, path, lambda done, total: seen.append((done, total)))
    assert (exported.records, exported.deleted) == (693, 10)
    assert seen[-1] == (space.buckets, space.buckets)
    assert [p.name for p in path.parent.iterdir()] == ["space.parquet"]
    kept = await store.fetch(space, None, ids)
    await redis.flushall()
    report = await load_records(redis, RecordFiles.open(path))
    assert (report.rows, report.committed, report.superseded, report.refused) == (703, 703, 0, 0)
    again = await store.fetch(space, None, ids)
    assert again.records.tobytes() == kept.records.tobytes()
    assert (await store.sequences(space, ids[:2])).tolist() == [1_001, 1_002]
    assert await store.count(space) == 693
    assert (await verify_space(redis, path)).agrees


async def test_the_offline_table_reads_an_export(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    await store.commit_window(make_window(space, ["a", "b"], [1, 2]))
    await export_space(redis, space, tmp_path / space.id / "export.parquet")
    ids, records = OfflineTable(str(tmp_path)).read(space)
    got = await store.fetch(space, None, ids)
    assert sorted(ids) == ["a", "b"]
    assert got.records.tobytes() == records.tobytes()


async def test_a_directory_of_windows_is_loaded_and_the_newest_wins(redis: Redis, tmp_path: Path) -> None:
    space, offline = make_space(), OfflineTable(str(tmp_path))
    for name, sequences in (("b", [5, 6]), ("a", [9, 2])):
        offline.append(make_window(space, ["x", "y"], sequences, seed=sequences[0]), name)
    folder = tmp_path / space.id
    report = await load_records(redis, RecordFiles.open(folder))
    assert (report.rows, report.committed, report.superseded) == (4, 3, 1)
    assert (await Store(redis).sequences(space, ["x", "y"])).tolist() == [9, 6]
    assert (await verify_space(redis, folder)).agrees


async def test_a_load_never_brings_an_older_record_back(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    path = write_file(tmp_path / "f.parquet", space, ["a", "b"], make_records(space, [5, 5]))
    await store.commit_window(make_window(space, ["a"], [6], seed=9))
    report = await load_records(redis, RecordFiles.open(path))
    assert (report.committed, report.superseded) == (1, 1)
    assert (await store.sequences(space, ["a", "b"])).tolist() == [6, 5]


class Failing:
    """A commit that fails after some windows."""

    def __init__(self, store: Store, after: int) -> None:
        self._store, self.left = store, after

    async def __call__(self, window: Window) -> npt.NDArray[np.bool_]:
        if not self.left:
            raise Unavailable("the server went away")
        self.left -= 1
        return await self._store.commit_window(window)


async def test_an_interrupted_load_goes_on_where_it_stopped(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), big_space()
    ids = [f"i{n}" for n in range(COUNT)]
    path = write_file(tmp_path / "f.parquet", space, ids, make_records(space, [7] * COUNT))
    source = RecordFiles.open(path)
    with pytest.raises(Unavailable, match="went away"):
        await load_records(redis, source, commit=Failing(store, 2), patience_s=0)
    report = await load_records(redis, source)
    assert 0 < report.skipped <= 2 * MAX_WINDOW
    assert report.skipped + report.rows == COUNT
    assert await store.count(space) == COUNT
    assert (await verify_space(redis, path)).agrees
    whole = await load_records(redis, source)  # it is done: loading again writes everything again
    assert (whole.skipped, whole.committed) == (0, COUNT)
    assert await redis.hlen(keys.loads().decode()) == 0


async def test_what_the_server_lost_is_loaded_again(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), big_space()
    ids = [f"i{n}" for n in range(COUNT)]
    path = write_file(tmp_path / "f.parquet", space, ids, make_records(space, [7] * COUNT))
    source = RecordFiles.open(path)
    with pytest.raises(Unavailable):
        await load_records(redis, source, commit=Failing(store, 2), patience_s=0)
    ledger = await redis.hgetall(keys.loads().decode())
    await redis.flushall()
    await redis.hset(keys.loads().decode(), mapping=ledger)  # type: ignore[arg-type]
    report = await load_records(redis, source)
    assert (report.skipped, report.committed) == (0, COUNT)
    other = await load_records(redis, source, commit=Failing(store, 9), resume=False)
    assert other.skipped == 0


class Restarting:
    """A commit that kills the server before its second window and starts it, over nothing if `emptied`."""

    def __init__(self, store: Store, server: EmbeddedServer, directory: Path, emptied: bool) -> None:
        self._store, self._directory, self._emptied = store, directory, emptied
        self.server, self.calls = server, 0

    async def __call__(self, window: Window) -> npt.NDArray[np.bool_]:
        self.calls += 1
        if self.calls == 2:
            self.server.kill()
            if self._emptied:
                shutil.rmtree(self._directory)
            self.server = EmbeddedServer.start(self._directory)
        return await self._store.commit_window(window)


@pytest.mark.parametrize("emptied", [False, True])
async def test_a_server_that_is_restarted_in_the_middle_of_a_load_lacks_nothing(
    tmp_path: Path, emptied: bool
) -> None:
    space = big_space()
    ids = [f"i{n}" for n in range(COUNT)]
    path = write_file(tmp_path / "f.parquet", space, ids, make_records(space, [7] * COUNT))
    directory = Path(tempfile.mkdtemp(prefix="rc-"))  # short, so that the socket is where it was
    server = EmbeddedServer.start(directory)
    redis = connect(server.url, StoreSettings(redis_url=server.url))
    commit = Restarting(Store(redis), server, directory, emptied)
    try:
        report = await load_records(redis, RecordFiles.open(path), commit=commit)
        assert report.skipped + report.committed == COUNT
        assert commit.calls >= 4
        assert await Store(redis).count(space) == COUNT
        assert (await verify_space(redis, path)).agrees
        assert await redis.hlen(keys.loads().decode()) == 0
    finally:
        await redis.aclose()
        commit.server.kill()
        shutil.rmtree(directory)


def test_a_ledger_of_a_cluster_is_believed_only_where_no_node_was_replaced() -> None:
    one, three = Progress(5, 0, "a"), Progress(5, 0, "a b c")
    assert one.holds_on("a")
    assert one.holds_on("restarted")
    assert three.holds_on("a b c")
    assert not three.holds_on("a b d")
    assert not one.holds_on("a b c")  # it has become a cluster since


async def test_a_server_that_is_gone_for_a_moment_is_waited_for(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    path = write_file(tmp_path / "f.parquet", space, ["a"], make_records(space, [7]))
    commit = Failing(store, 0)
    asyncio.get_running_loop().call_later(0.05, setattr, commit, "left", 9)
    assert (await load_records(redis, RecordFiles.open(path), commit=commit)).committed == 1


async def test_every_kind_of_difference_is_found(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    ids = ["same", "missing", "older", "different", "newer", "deleted"]
    source = make_records(space, [5] * 6)
    source[5:] = make_tombstones(space, [5])
    path = write_file(tmp_path / "f.parquet", space, ids, source)
    stored = source.copy()
    stored["sequence"] = [5, 0, 4, 5, 6, 5]
    stored["codes"][3, 0] += 1
    keep = [0, 2, 3, 4, 5]
    window = Window(space, [*(ids[i] for i in keep), "extra", "since"], np.zeros(7, space.dtype), 1)
    window.records[:5] = stored[keep]
    window.records[5:] = make_records(space, [3, 6])
    await store.commit_window(window)
    await store.commit_window(make_deletes(space, ["gone"], [2]))
    report = await verify_space(redis, path)
    assert not report.agrees
    assert (report.checked, report.scanned) == (6, 8)
    assert (report.missing, report.older, report.different, report.extra, report.newer) == (1, 1, 1, 1, 2)
    assert report.examples == {
        "missing": ["'missing'"],
        "older": ["'older'"],
        "different": ["'different'"],
        "extra": ["'extra'"],
        "newer": ["'newer'", "'since'"],
    }


async def test_a_sample_is_a_part_and_finds_what_is_everywhere(redis: Redis, tmp_path: Path) -> None:
    space = big_space()
    ids = [f"i{n}" for n in range(5_000)]
    path = write_file(tmp_path / "f.parquet", space, ids, make_records(space, [7] * 5_000))
    await load_records(redis, RecordFiles.open(path))
    report = await verify_space(redis, path, sample=500)
    assert report.agrees
    assert 350 < report.checked < 650
    assert 300 < report.scanned < 800
    await Store(redis).commit_window(make_window(space, ids[:2_500], [8] * 2_500))
    assert (await verify_space(redis, path, sample=500)).newer > 100


async def test_files_that_are_not_ours_are_refused(redis: Redis, tmp_path: Path) -> None:
    space = make_space()
    with pytest.raises(NotFound):
        RecordFiles.open(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(InvalidInput, match=r"text\.parquet"):
        RecordFiles.open(tmp_path / "text.parquet")
    for name in ("a", "b"):
        write_file(tmp_path / "two" / f"{name}.parquet", make_space(), ["x"], make_records(space, [1]))
    with pytest.raises(SpaceMismatch, match=r"b\.parquet"):
        RecordFiles.open(tmp_path / "two")
    path = write_file(tmp_path / "one.parquet", space, ["x"], make_records(space, [1]))
    with pytest.raises(NotFound, match="space"):
        await verify_space(redis, path)
    foreign = make_records(space, [1])
    foreign["version"] = 9
    write_file(tmp_path / "foreign.parquet", space, ["x"], foreign)
    with pytest.raises(UnknownVersion, match=r"foreign\.parquet"):
        await load_records(redis, RecordFiles.open(tmp_path / "foreign.parquet"))
    assert await Store(redis).count(space) == 0


async def test_a_broken_row_is_not_exported(redis: Redis, tmp_path: Path) -> None:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    await store.commit_window(make_window(space, ["bad"], [1]))
    key = keys.records(space.id, space.buckets).key_of(b"bad").decode()
    await redis.hset(key, "bad", b"\1\1" + b"x" * 30)
    with pytest.raises(BrokenRow, match="'bad'"):
        await export_space(redis, space, tmp_path / "f.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", [ID_INT8, ID_FP16])
async def test_id_tables_go_out_and_in(redis: Redis, tmp_path: Path, codec: int) -> None:
    ids, rows = [f"i{n}" for n in range(300)], make_id_rows(300, dim=12, codec=codec)
    write_id_rows(tmp_path / "in.parquet", ids, rows)
    report = await load_id_rows(redis, tmp_path / "in.parquet", "table")
    table = await id_table(redis, "table")
    assert (report.committed, table) == (300, IdTable("table", codec, 12, 300))
    assert await Store(redis).id_table_ready(table)
    out = tmp_path / "out.parquet"
    assert (await export_id_table(redis, table, out)).records == 300
    back, back_rows = read_id_rows(out, codec, 12)
    order = np.argsort([int(item_id[1:]) for item_id in back])
    assert back_rows[order].tobytes() == rows.tobytes()
    assert (await verify_id_table(redis, out, table)).agrees
    write_id_rows(tmp_path / "other.parquet", [*ids[1:], "new"], rows)
    report2 = await verify_id_table(redis, tmp_path / "other.parquet", table)
    assert (report2.missing, report2.extra, report2.different) == (1, 1, 299)
    with pytest.raises(Conflict, match="another row"):
        await load_id_rows(redis, tmp_path / "other.parquet", "table")
    with pytest.raises(NotFound):
        await id_table(redis, "no such")


async def test_an_id_table_that_is_not_whole_is_not_exported(redis: Redis, tmp_path: Path) -> None:
    table = IdTable("half", ID_INT8, 16, 10)
    await Store(redis).load_id_rows(table, ["a"], make_id_rows(1))
    with pytest.raises(InvalidInput, match="rows are loaded of 10"):
        await export_id_table(redis, table, tmp_path / "f.parquet")
    assert not list(tmp_path.iterdir())
