"""Which items are new."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import InvalidInput
from tests.training.data.tables import dataset
from training.data.dataset import Dataset
from training.data.holdout import new_items
from training.data.interactions import TEST, TRAIN, VAL


def world(arrivals: int) -> Dataset:
    """100 items in train and test, one in val and test, `arrivals` in test alone, 10 never shown."""
    rows = [(0, k, 10, 1, k, TRAIN) for k in range(100)] + [(0, 100, 20, 1, 100, VAL)]
    rows += [(0, k, 30, 1, 101 + k, TEST) for k in range(101 + arrivals)]
    return dataset(rows, 111 + arrivals, 1)


def test_arrivals_are_the_items_of_test_alone() -> None:
    new = new_items(world(5), mode="arrivals")
    assert np.flatnonzero(new).tolist() == [101, 102, 103, 104, 105]
    with pytest.raises(InvalidInput, match="no item appears in the test split alone"):
        new_items(world(0), mode="arrivals")


def test_a_draw_is_seeded_and_of_items_with_interactions() -> None:
    new = new_items(world(5), mode="draw", fraction=0.15, seed=3)
    assert new.dtype == np.bool_
    assert new.shape == (116,)
    assert new.sum() == round(0.15 * 106)
    assert not new[106:].any()
    assert (new == new_items(world(5), mode="draw", seed=3)).all()
    assert (new != new_items(world(5), mode="draw", seed=4)).any()


@pytest.mark.parametrize(("arrivals", "count"), [(0, 15), (1, 15), (3, 3)])
def test_auto_takes_arrivals_where_they_are_enough(arrivals: int, count: int) -> None:
    assert new_items(world(arrivals)).sum() == count


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_the_fraction_is_checked(fraction: float) -> None:
    with pytest.raises(InvalidInput, match="fraction"):
        new_items(world(3), fraction=fraction)


def test_the_mode_is_checked() -> None:
    with pytest.raises(InvalidInput, match="mode: must be auto, arrivals or draw"):
        new_items(world(3), mode="some")  # type: ignore[arg-type]
