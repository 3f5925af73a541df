"""Interest pairs, derived and given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.training.data.tables import dataset, write
from training.data.dataset import load_dataset
from training.data.interactions import TEST, TRAIN, VAL
from training.data.interest_pairs import InterestPairs
from training.data.pairs import counted_pairs, encoder_input, interest_pairs
from training.data.pictures import NoPictures

ROWS = [
    (0, 1, 10, 1, 0, TRAIN),
    (1, 5, 11, 1, 1, TRAIN),  # another user between
    (0, 6, 12, 0, 2, TRAIN),  # not liked
    (0, 2, 13, 1, 3, TRAIN),  # 1 -> 2
    (0, 2, 14, 1, 4, TRAIN),  # the same again
    (0, 1, 15, 1, 5, TRAIN),  # 2 -> 1
    (0, 2, 16, 1, 6, TRAIN),  # 1 -> 2 once more
    (0, 4, 17, 1, 7, TRAIN),  # new: as if never shown
    (0, 3, 18, 1, 8, TRAIN),  # 2 -> 3
    (0, 6, 19, 1, 9, VAL),
    (0, 0, 20, 1, 10, TEST),
]
NEW = np.arange(7) == 4


def test_derived_pairs_are_a_users_consecutive_train_likes() -> None:
    pairs, counts = counted_pairs(dataset(ROWS, 7, 2), NEW)
    assert pairs.tolist() == [[1, 2], [2, 1], [2, 3]]
    assert counts.tolist() == [2.0, 1.0, 1.0]
    assert pairs.dtype == np.int32
    assert counts.dtype == np.float32
    assert (interest_pairs(dataset(ROWS, 7, 2), NEW) == pairs).all()


def test_given_pairs_go_first_and_lose_new_items() -> None:
    given = InterestPairs(
        queries=np.array([5, 5, -1, 4, 1, 3], dtype=np.int32),
        query_pictures=NoPictures(),
        items=np.array([6, 6, 2, 1, 4, 3], dtype=np.int32),
    )
    data = replace(dataset(ROWS, 7, 2), interest_pairs=given)
    pairs, counts = counted_pairs(data, NEW)
    assert pairs.tolist() == [[5, 6]]
    assert counts.tolist() == [2.0]


def test_no_pairs_at_all() -> None:
    pairs, counts = counted_pairs(dataset(ROWS[:1], 7, 2), NEW)
    assert pairs.shape == (0, 2)
    assert counts.shape == (0,)


def test_a_query_that_is_a_picture_alone_becomes_an_item_behind_the_catalogue(tmp_path: Path) -> None:
    directory = write(tmp_path)
    pairs = {"query_image": [b"picture 0", b"picture 1"], "item_id": ["i2", "i5"]}
    pq.write_table(pa.table(pairs), directory / "interest_pairs.parquet")
    data = load_dataset(directory)
    items, ends, rows = encoder_input(data, np.arange(6) == 5)
    assert [item.item_id for item in items[:6]] == data.catalogue.item_ids
    assert [(item.item_id, item.image, dict(item.text)) for item in items[6:]] == [
        ("query-0", b"picture 0", {})  # the other one chose a new item
    ]
    assert ends.tolist() == [[6, 2]]
    assert ends.dtype == np.int32
    assert rows.tolist() == [0, 1, 2, 3, 4, 6]
