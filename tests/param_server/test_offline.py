from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput, SpaceMismatch, UnknownVersion
from contracts.window import Window
from param_server.offline import OfflineTable
from tests.param_server.samples import make_deletes, make_records, make_space, make_tombstones, make_window


def test_a_window_appended_again_is_there_once(tmp_path: Path) -> None:
    table, space = OfflineTable(str(tmp_path)), make_space()
    window = make_window(space, ["a", "{b}\0"], [1, 2])
    path = table.append(window, "1700-0")
    assert table.append(dataclasses.replace(window, committed_ms=5), "1700-0") == path
    assert [str(p) for p in tmp_path.rglob("*") if p.is_file()] == [path]
    other = make_window(space, ["c"], [3])
    assert table.append(other, "1700-0") != path  # the same name never hides other records
    ids, records = table.read(space)
    assert sorted(ids) == ["a", "c", "{b}\0"]
    assert records.dtype == space.dtype


def test_newest_wins_and_deleted_items_are_gone(tmp_path: Path) -> None:
    table, space = OfflineTable(str(tmp_path)), make_space()
    table.append(make_window(space, ["a", "b", "c", "d"], [5, 2**53 + 1, 3, 2**64 - 2], seed=1), "w3")
    table.append(make_window(space, ["a", "b", "c"], [4, 2**53, 2], seed=2), "w1")
    table.append(make_window(space, ["a"], [6], seed=3), "w2")
    table.append(make_deletes(space, ["c", "d", "e"], [4, 2**64 - 1, 1]), "w0")
    ids, records = table.read(space)
    found = dict(zip(ids, records, strict=True))
    assert set(found) == {"a", "b"}
    assert found["a"] == make_records(space, [6], seed=3)[0]
    assert found["b"] == make_records(space, [5, 2**53 + 1, 3, 2**64 - 2], seed=1)[1]


def test_of_equal_sequences_the_first_commit_stays(tmp_path: Path) -> None:
    table, space = OfflineTable(str(tmp_path)), make_space()
    first, second = make_window(space, ["a"], [5], seed=1), make_window(space, ["a"], [5], seed=2)
    table.append(dataclasses.replace(second, committed_ms=200), "a-later")
    table.append(dataclasses.replace(first, committed_ms=100), "b-earlier")
    assert table.read(space)[1][0] == first.records[0]


@settings(max_examples=25, deadline=None, database=None)
@given(
    writes=st.lists(
        st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 3)), min_size=1, max_size=20
    )
)
def test_any_history_reads_as_the_model(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bool, int]]
) -> None:
    table, space = OfflineTable(str(tmp_path_factory.mktemp("offline"))), make_space(dim=2)
    model: dict[str, bytes | None] = {}
    windows: dict[int, list[tuple[str, np.void]]] = {}
    for sequence, (item, delete, window) in enumerate(writes):
        row = make_tombstones(space, [sequence]) if delete else make_records(space, [sequence], sequence)
        windows.setdefault(window, []).append((item, row[0]))
        model[item] = None if delete else row.tobytes()
    for number, rows in windows.items():
        records = np.array([r for _, r in rows], space.dtype)
        table.append(Window(space, [item for item, _ in rows], records, number), f"w{number}")
    ids, records = table.read(space)
    found = {item: record.tobytes() for item, record in zip(ids, records, strict=True)}
    assert len(found) == len(ids)
    assert found == {item: row for item, row in model.items() if row is not None}


def test_the_columns_and_the_header_are_in_the_file(tmp_path: Path) -> None:
    table, space = OfflineTable(str(tmp_path)), make_space()
    window = make_window(space, ["a", "b"], [2**64 - 1, 2])
    file = pq.read_table(table.append(window, "w"))
    assert [str(t) for t in file.schema.types] == [
        *("string", "uint64", f"fixed_size_binary[{space.dtype.itemsize}]", "int64")
    ]
    assert file.column_names == ["item_id", "sequence", "record", "committed_ms"]
    assert file["sequence"].to_pylist() == [2**64 - 1, 2]
    assert file["record"].to_pylist() == [r.tobytes() for r in window.records]
    assert file.schema.metadata[b"repcenter.space"] == space.header()


def test_a_table_without_windows_is_empty(tmp_path: Path) -> None:
    ids, records = OfflineTable(str(tmp_path / "not yet")).read(make_space())
    assert (ids, records.shape) == ([], (0,))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    table, one, two = OfflineTable(str(tmp_path)), make_space(), make_space()
    path = Path(table.append(make_window(one, ["a"], [1]), "w"))
    folder = tmp_path / two.id
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SpaceMismatch, match=one.encoder_digest):
        table.read(two)
    (path.parent / "half.parquet").write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidInput, match=r"half\.parquet"):
        table.read(one)
    file = pq.read_table(path)
    metadata = {**file.schema.metadata, b"repcenter.offline.version": b"9"}
    pq.write_table(file.replace_schema_metadata(metadata), path.parent / "half.parquet")
    with pytest.raises(UnknownVersion, match="9"):
        table.read(one)


def test_a_half_written_file_is_never_read(tmp_path: Path) -> None:
    table, space = OfflineTable(str(tmp_path)), make_space()
    path = Path(table.append(make_window(space, ["a"], [1]), "w"))
    (path.parent / "w2.parquet.0123.part").write_bytes(path.read_bytes()[:50])
    assert table.read(space)[0] == ["a"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x" * 129, "a b", "\0"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        OfflineTable(str(tmp_path)).append(make_window(make_space(), ["a"], [1]), name)
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_is_a_root_too() -> None:
    table, space = OfflineTable("memory://offline/root"), make_space()
    window = make_window(space, ["a", "b"], [1, 2])
    table.append(window, "w")
    table.append(window, "w")
    ids, records = table.read(space)
    assert ids == ["a", "b"]
    assert np.array_equal(records, window.records)
