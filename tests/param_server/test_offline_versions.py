"""All versions of the offline table: what a reader could have seen, and when."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.codec import is_tombstone
from contracts.window import Window
from param_server.offline import OfflineTable
from tests.param_server.samples import make_deletes, make_records, make_space, make_tombstones, make_window


def test_versions_come_by_item_and_time_with_what_was_never_seen_left_out(tmp_path: Path) -> None:
    table, space = OfflineTable(str(tmp_path)), make_space()
    for name, window, committed in (
        ("w0", make_window(space, ["a", "b"], [5, 7], seed=1), 100),
        ("w1", make_window(space, ["a"], [4], seed=2), 200),  # older than what there is: never seen
        ("w2", make_deletes(space, ["b"], [8]), 250),
        ("w3", make_window(space, ["a", "b"], [6, 9], seed=3), 300),
        ("w4", make_window(space, ["a"], [6], seed=4), 400),  # an equal sequence: the first one stays
    ):
        table.append(dataclasses.replace(window, committed_ms=committed), name)
    versions = table.read_versions(space)
    assert versions.item_ids == ["a", "a", "b", "b", "b"]
    assert versions.sequences.tolist() == [5, 6, 7, 8, 9]
    assert versions.since_ms.tolist() == [100, 300, 100, 250, 300]
    assert is_tombstone(versions.records).tolist() == [False, False, False, True, False]
    assert versions.records[1] == make_window(space, ["a", "b"], [6, 9], seed=3).records[0]


def test_an_empty_space_has_no_versions(tmp_path: Path) -> None:
    versions = OfflineTable(str(tmp_path)).read_versions(make_space())
    assert versions.item_ids == []
    assert len(versions.records) == len(versions.since_ms) == 0
    assert versions.records.dtype == make_space().dtype


@settings(max_examples=25, deadline=None, database=None)
@given(
    writes=st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 4), st.integers(0, 5)),
        min_size=1,
        max_size=20,
    )
)
def test_the_last_versions_are_what_the_table_reads(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bool, int, int]]
) -> None:
    table, space = OfflineTable(str(tmp_path_factory.mktemp("offline"))), make_space(dim=2)
    for number, (item, delete, sequence, committed) in enumerate(writes):
        rows = make_tombstones(space, [sequence]) if delete else make_records(space, [sequence], number)
        table.append(Window(space, [item], rows, committed), f"w{number:02}")
    versions = table.read_versions(space)
    last = {item: versions.records[n] for n, item in enumerate(versions.item_ids)}
    found = dict(zip(*table.read(space), strict=True))
    alive = {item for item, record in last.items() if not is_tombstone(np.array([record]))[0]}
    assert set(found) == alive
    assert all(found[item].tobytes() == last[item].tobytes() for item in alive)
    for item in "abc":
        mine = [n for n, i in enumerate(versions.item_ids) if i == item]
        assert mine == list(range(mine[0], mine[-1] + 1)) if mine else True
        assert (np.diff(versions.since_ms[mine]) >= 0).all()
        assert (np.diff(versions.sequences[mine].astype(np.int64)) > 0).all()
