from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contracts.space import Space
from contracts.window import Window
from param_server.compaction import compact
from param_server.offline import OfflineTable
from param_server.offline_files import OfflineFiles, windows_name
from param_server.record_file import RecordFileWriter, to_table
from param_server.stream_id import START, Range, StreamId
from tests.param_server.samples import make_deletes, make_records, make_space, make_window


def at(window: Window, time_ms: int) -> Window:
    return dataclasses.replace(window, committed_ms=time_ms)


def fill(root: Path, space: Space) -> OfflineTable:
    """Backfill, files of windows that follow one another, one window in two files, a deletion."""
    table = OfflineTable(str(root))
    table.append(at(make_window(space, ["a", "b", "c"], [1, 1, 1], seed=1), 10), "backfill-1")
    after = START
    for i in range(6):
        window = make_window(space, [f"i{i}", "a"], [2 + 2 * i, 3 + 2 * i], seed=i)
        last = StreamId(20 + i, 0)
        table.files.write(space.id, windows_name(Range(after, last)), to_table(at(window, 20 + i)))
        if i == 3:
            table.append(at(window, 90), "load-3")
        after = last
    table.append(at(make_deletes(space, ["b"], [50]), 60), "load-4")
    return table


def content(table: OfflineTable, space: Space) -> object:
    """All that readers see of a table."""
    versions = table.read_versions(space)
    ids, records = table.read_newest(space)
    every = zip(versions.item_ids, versions.since_ms.tolist(), versions.records, strict=True)
    return (
        sorted((item_id, since, record.tobytes()) for item_id, since, record in every),
        dict(zip(ids, [r.tobytes() for r in records], strict=True)),
        table.files.listing(space.id).ranges,
        table.files.checkpoint(space.id),
    )


def test_a_compacted_table_reads_the_same(tmp_path: Path) -> None:
    space = make_space(dim=2)
    table = fill(tmp_path, space)
    before = content(table, space)
    report = compact(table, space)
    assert content(table, space) == before
    assert (report.files, report.written, report.replaced, report.duplicates) == (9, 1, 9, 2)
    (name,) = table.files.names(space.id)
    assert name.startswith(f"compact-{StreamId(25, 0).padded}-")
    rows = table.rows(space)
    pairs = list(
        zip(rows.names(np.arange(len(rows.records))), rows.records["sequence"].tolist(), strict=True)
    )
    assert pairs == sorted(pairs)
    assert compact(table, space).written == 0
    table.append(at(make_window(space, ["z"], [99]), 99), "load-5")
    assert compact(table, space).replaced == 2  # compacted files are compacted again while they are small
    assert len(table.files.names(space.id)) == 1
    assert table.files.checkpoint(space.id) == StreamId(25, 0)


def test_files_are_of_about_the_size_asked_for(tmp_path: Path) -> None:
    space = make_space(dim=64)
    table = OfflineTable(str(tmp_path))
    for i in range(30):
        table.append(
            make_window(space, [f"{i}-{j}" for j in range(10)], range(10 * i + 1, 10 * i + 11), i), "w"
        )
    sizes = table.files.names(space.id)
    most = 5 * max(sizes.values())
    before = content(table, space)
    compact(table, space, most_bytes=most)
    assert content(table, space) == before
    assert 5 <= len(table.files.names(space.id)) <= 10
    assert max(table.files.names(space.id).values()) <= most


def test_old_versions_go_where_a_horizon_is_given(tmp_path: Path) -> None:
    """As of any time from the horizon on nothing changes; the deletion stays."""
    space = make_space(dim=2)
    table = fill(tmp_path, space)
    before = table.read_versions(space)
    report = compact(table, space, horizon_ms=23, most_bytes=1)  # every file is large: only old rows count
    assert report.outdated == 4
    after = table.read_versions(space)
    had, has = (set(zip(v.item_ids, v.sequences.tolist(), strict=True)) for v in (before, after))
    gone = had - has
    assert gone == {("a", 1), ("a", 3), ("a", 5), ("a", 7)}
    assert set(table.read_newest(space)[0]) == set(before.item_ids)
    assert compact(table, space, horizon_ms=23, most_bytes=1).outdated == 0


def test_a_file_put_there_by_hand_stays(tmp_path: Path) -> None:
    space = make_space(dim=2)
    table = fill(tmp_path, space)
    export = tmp_path / space.id / "mine.parquet"
    with RecordFileWriter(export, space) as writer:
        writer.write(["mine"], make_records(space, [7]))
    compact(table, space)
    assert len(table.files.names(space.id)) == 2
    assert "mine" in table.read(space)[0]


def test_a_reader_in_the_middle_sees_the_old_or_the_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is compacted while it is listed, so that neither the old files nor the new one show, and
    again while the files of the listing are read."""
    space = make_space(dim=2)
    table = fill(tmp_path, space)
    before = content(table, space)
    real = OfflineFiles.names
    left = iter((True,))

    def torn(self: OfflineFiles, space_id: str) -> dict[str, int]:
        if next(left, False):
            monkeypatch.setattr(OfflineFiles, "names", real)
            compact(OfflineTable(str(tmp_path)), space)
            return {}
        return real(self, space_id)

    monkeypatch.setattr(OfflineFiles, "names", torn)
    rows = OfflineTable(str(tmp_path)).rows(space)
    assert len(rows.distinct()) == len(table.rows(space).distinct())
    assert content(table, space) == before
    table.append(at(make_window(space, ["z"], [99]), 99), "load-5")
    read = OfflineFiles.read
    once = iter((True,))

    def late(self: OfflineFiles, *args: object) -> object:
        if next(once, False):
            monkeypatch.setattr(OfflineFiles, "read", read)
            compact(OfflineTable(str(tmp_path)), space)
        return read(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(OfflineFiles, "read", late)
    assert "z" in OfflineTable(str(tmp_path)).read(space)[0]


KILLER = """
import os, signal, sys
from pathlib import Path
from param_server.compaction import compact
from param_server.offline import OfflineTable
from contracts.space import parse_header
root, header = Path(sys.argv[1]), sys.argv[2].encode()
space = parse_header(header)
step = 0
while True:
    child = os.fork()
    if child == 0:
        seen = [0]
        def hook(event, args):
            if event in ("open", "os.rename", "os.remove") and str(root / str(step)) in str(args):
                seen[0] += 1
                if seen[0] > step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        compact(OfflineTable(str(root / str(step))), space)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert status == signal.SIGKILL, status
    step += 1
print(step)
"""


def test_killed_at_every_step_it_reads_the_same(tmp_path: Path) -> None:
    """One copy of the table for each step of a compaction that touches a file; kill -9 before the step."""
    space = make_space(dim=2)
    before = content(fill(tmp_path / "0", space), space)
    for step in range(1, 80):
        shutil.copytree(tmp_path / "0", tmp_path / str(step))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), space.header().decode()],
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert 20 <= steps < 80
    left = []
    for step in range(steps + 1):
        table = OfflineTable(str(tmp_path / str(step)))
        left.append(len(table.files.names(space.id)))
        assert content(table, space) == before, step
        compact(table, space)
        assert content(table, space) == before, step
        assert len(table.files.names(space.id)) == 1
        table.files.sweep(space.id, ("compact-",))
        assert not list((tmp_path / str(step)).rglob("*.part"))
    assert max(left) == 10  # some were killed between the new file and the old ones' end
    assert left[-1] == 1
