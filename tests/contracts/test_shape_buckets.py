from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidInput
from contracts.features import ROW_INPUTS
from contracts.shape_buckets import Shape, ShapeBuckets, buckets_for, ladder, pad, shape_of
from tests.training.serving_graph.rankers import requests

SIZES = st.integers(1, 5_000)


@given(first=st.integers(1, 64), most=SIZES)
def test_a_ladder_has_few_rungs_and_ends_where_it_should(first: int, most: int) -> None:
    rungs = ladder(first, most)
    assert rungs[-1] == most
    assert list(rungs) == sorted(set(rungs))
    assert len(rungs) <= 14
    assert all(b <= 2 * a for a, b in pairwise(rungs))


@pytest.mark.parametrize("wrong", [(0, 5), (4, 0), (-1, 3)])
def test_a_ladder_below_one_is_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="ladder"):
        ladder(*wrong)


@given(b=st.integers(1, 20), n=SIZES, t=st.integers(1, 1_100))
def test_a_shape_gets_the_smallest_bucket_that_holds_it(b: int, n: int, t: int) -> None:
    buckets = buckets_for(2_000, 1_000, 16)
    found = buckets.of(Shape(b, n, t))
    if b > 16 or n > 2_000 or t > 1_000:
        assert found is None
        return
    assert found is not None
    assert all(size <= most for size, most in zip((b, n, t), found, strict=True))
    assert found.requests < 2 * b
    assert found.candidates <= max(16, 2 * n)
    assert found.behaviours <= max(16, 2 * t)
    assert found.rows >= Shape(b, n, t).rows
    assert buckets.of(found) == found


def test_buckets_of_one_request_are_few_and_the_largest_is_first() -> None:
    every = list(buckets_for(2_000, 1_000, 16).of_one())
    assert every[0] == Shape(1, 2_000, 1_000)
    assert len(every) == len(set(every)) == 8 * 7
    assert list(buckets_for(3, 5).of_one()) == [Shape(1, 3, 5)]


@given(b=st.integers(1, 3), n=st.integers(1, 20), t=st.integers(1, 20), seed=st.integers(0, 9))
def test_what_was_there_is_there_and_the_rest_is_zero(b: int, n: int, t: int, seed: int) -> None:
    inputs = requests(b, n, t, seed=seed)
    bucket = ShapeBuckets((2, 4), (16, 32), (8, 40)).of(shape_of(inputs))
    assert bucket is not None
    padded = pad(inputs, bucket)
    rows, older = len(inputs["inv_norm"]), bucket.behaviours - t
    assert padded.keys() == inputs.keys()
    assert shape_of(padded) == bucket
    for name, array in padded.items():
        assert array.dtype == inputs[name].dtype
        if name in ROW_INPUTS:
            kept = array[:rows]
            assert len(array) == bucket.rows
        elif name == "candidates":
            kept = array[:b, :n]
        elif name in ("behaviours", "behaviour_mask", "gaps"):
            kept = array[:b, older:]
            assert not array[:, :older].any()
        else:
            kept = array[:b]
        assert np.array_equal(kept, inputs[name])
        assert np.count_nonzero(array) == np.count_nonzero(inputs[name])


def test_what_fits_is_not_copied() -> None:
    inputs = requests(1, 5, 6)
    assert pad(inputs, Shape(1, 5, 6))["codes"] is inputs["codes"]


@pytest.mark.parametrize("bucket", [Shape(1, 4, 6), Shape(1, 5, 5), Shape(0, 5, 6)])
def test_what_does_not_fit_is_refused(bucket: Shape) -> None:
    with pytest.raises(InvalidInput, match="do not fit"):
        pad(requests(1, 5, 6), bucket)


def test_more_rows_than_the_bucket_has_are_refused() -> None:
    inputs = requests(1, 20, 30)
    few = inputs | {"candidates": inputs["candidates"][:, :2], "behaviours": inputs["behaviours"][:, -2:]}
    with pytest.raises(InvalidInput, match="do not fit"):
        pad(few, Shape(1, 2, 2))
