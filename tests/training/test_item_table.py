from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.codec import tombstones
from contracts.errors import InvalidInput, SpaceMismatch
from contracts.schema import FeatureSchema
from contracts.space import Modality, Space
from contracts.window import Window
from param_server.offline import OfflineTable
from tests.training import tiny
from training.item_table import Versions, align_records, align_versions, item_table, version_table
from training.vocabularies import fit_vocabularies


def test_the_offline_table_comes_back_in_catalogue_order(tmp_path: Path) -> None:
    records = tiny.records()
    order = np.random.default_rng(0).permutation(np.flatnonzero(~tiny.NEW))
    ids = [tiny.ITEM_IDS[i] for i in order]
    table = OfflineTable(str(tmp_path))
    table.append(Window(tiny.SPACE, ids[:20], records[order[:20]], 1), "backfill-0")
    table.append(Window(tiny.SPACE, ids[20:], records[order[20:]], 1), "backfill-1")
    table.append(Window(tiny.SPACE, ["stranger"], records[:1], 2), "push-0")

    aligned, found = align_records(tiny.ITEM_IDS, *table.read(tiny.SPACE), tiny.SPACE)

    assert np.array_equal(found, ~tiny.NEW)
    assert np.array_equal(aligned[found], records[~tiny.NEW])
    assert not aligned[~found]["inv_norm"].any()


def test_records_of_another_layout_are_refused() -> None:
    other = Space("1" * 64, (Modality("text", 3),))
    with pytest.raises(SpaceMismatch, match="offline table"):
        align_records(tiny.ITEM_IDS, tiny.ITEM_IDS, tiny.records(), other)


def test_rows_not_found_are_zero_and_padding_counts_as_new() -> None:
    records = tiny.records()
    schema = FeatureSchema(8, 4, fit_vocabularies(records, tiny.SPACE.attributes))
    items = item_table(records, ~tiny.NEW, tiny.NEW, schema)
    assert len(items) == tiny.ITEMS + 1
    assert items.new.tolist() == [True, *tiny.NEW.tolist()]
    hidden = np.flatnonzero(items.new)
    assert not items.inv_norm[hidden].any()
    assert not items.attributes[hidden].any()
    shown = np.flatnonzero(~tiny.NEW)
    assert np.array_equal(items.codes[shown + 1], records["codes"][shown])
    assert np.array_equal(items.inv_norm[shown + 1], records["inv_norm"][shown])


SCHEMA = FeatureSchema(8, 4, fit_vocabularies(tiny.records(), tiny.SPACE.attributes))


def versions() -> Versions:
    """Every item at 1 s; item 7 changes at 5 s and is deleted at 9 s; item 8 comes at 3 s, item 9 never."""
    first, second = tiny.records(0), tiny.records(1)
    ids = [i for i in range(tiny.ITEMS) if i not in (8, 9)]
    dead = tombstones(tiny.SPACE.dtype, np.array([9], np.uint64))
    rows = np.concatenate([dead, first[ids], second[7:8], first[8:9]])
    since = np.array([9_000, *[1_000] * len(ids), 5_000, 3_000])
    names = [tiny.ITEM_IDS[i] for i in (7, *ids, 7, 8)]
    return align_versions(
        tiny.ITEM_IDS, [*names, "stranger"], np.append(rows, first[:1]), np.append(since, 1), tiny.SPACE
    )


def test_versions_against_a_loop() -> None:
    found = versions()
    table = version_table(found, tiny.NEW, SCHEMA, "time")
    assert table.index is not None
    assert len(table) == tiny.ITEMS + 1
    assert len(table.codes) == len(found.items) + 1 == tiny.ITEMS + 2
    rng = np.random.default_rng(0)
    items = rng.integers(0, tiny.ITEMS + 1, (40, 30)).astype(np.int32)
    items[:, :4] = (8, 9, 10, 0)
    times = np.sort(rng.choice([0, 999, 1_000, 2_999, 3_000, 4_999, 5_000, 8_999, 9_000, 10**12], 40))
    rows = table.index.rows(items, times)
    for at, line, shown in zip(times, items, rows, strict=True):
        for item, row in zip(line, shown, strict=True):
            past = [
                v for v in range(len(found.items)) if found.items[v] == item - 1 and found.since_ms[v] <= at
            ]
            assert row == (past[-1] + 1 if past else 0)
            if past:
                assert np.array_equal(table.codes[row], found.records["codes"][past[-1]])


def test_a_deleted_and_an_unseen_item_have_no_content() -> None:
    table = version_table(versions(), tiny.NEW, SCHEMA, "time")
    assert table.index is not None
    at = np.array([2_000, 6_000, 9_000])
    changing, late, never = (table.index.rows(np.full((3, 1), i + 1, np.int32), at)[:, 0] for i in (7, 8, 9))
    assert len(set(changing.tolist())) == 3
    assert (table.inv_norm[changing] > 0).any(1).tolist() == [True, True, False]
    assert table.attributes[changing].any(1).tolist() == [True, True, False]
    assert (table.inv_norm[late] > 0).any(1).tolist() == [False, True, True]
    assert never.tolist() == [0, 0, 0]
    assert not table.codes[0].any()


def test_the_latest_versions_are_a_plain_table() -> None:
    found = versions()
    records, there = found.latest(tiny.ITEMS)
    assert np.flatnonzero(~there).tolist() == [7, 9]
    assert np.array_equal(records[there], tiny.records()[there])
    latest = version_table(found, tiny.NEW, SCHEMA, "latest")
    plain = item_table(records, there, tiny.NEW, SCHEMA)
    assert latest.index is None
    for name in ("codes", "inv_norm", "attributes", "attribute_values", "new"):
        assert np.array_equal(getattr(latest, name), getattr(plain, name))


def test_how_a_log_is_joined_follows_from_its_end() -> None:
    found = versions()
    assert (
        found.as_of(log_end_s=0) == "latest"
    )  # encoded after the log: no content was there at any time of it
    assert found.as_of(log_end_s=1) == "time"
    assert found.until(999).items.tolist() == []
    assert set(found.until(5_000).items.tolist()) == set(range(tiny.ITEMS)) - {9}
    assert 7 not in found.among(np.arange(tiny.ITEMS) != 7).items


def test_versions_have_to_be_sorted() -> None:
    found = versions()
    back = Versions(found.records[::-1], found.items[::-1], found.since_ms[::-1])
    with pytest.raises(InvalidInput, match="versions: must be sorted by item and time"):
        version_table(back, tiny.NEW, SCHEMA, "time")
    with pytest.raises(InvalidInput, match="as_of: must be time or latest"):
        version_table(found, tiny.NEW, SCHEMA, "now")  # type: ignore[arg-type]
