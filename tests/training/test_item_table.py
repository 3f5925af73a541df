from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.errors import SpaceMismatch
from contracts.features import FeatureSchema
from contracts.space import Modality, Space
from contracts.window import Window
from param_server.offline import OfflineTable
from tests.training import tiny
from training.item_table import align_records, item_table
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
