from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidInput
from training.metrics import auc, gauc, logloss


def brute_auc(labels: list[int], scores: list[float]) -> float:
    """Every pair of a positive and a negative, ties one half."""
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, y in zip(scores, labels, strict=True)
        if y
        for n, z in zip(scores, labels, strict=True)
        if not z
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


def brute_gauc(labels: list[int], scores: list[float], groups: list[int]) -> float:
    total, weight = 0.0, 0
    for g in set(groups):
        own = [i for i in range(len(groups)) if groups[i] == g]
        area = brute_auc([labels[i] for i in own], [scores[i] for i in own])
        if not math.isnan(area):
            total += len(own) * area
            weight += len(own)
    return total / weight if weight else math.nan


rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([-1.5, 0.0, 0.25, 0.5, 1e-30, 7.0]), st.integers(0, 4)),
    max_size=40,
)


@given(rows)
def test_auc_is_the_share_of_pairs_in_order(drawn: list[tuple[int, float, int]]) -> None:
    labels, scores = [d[0] for d in drawn], [d[1] for d in drawn]
    assert auc(labels, scores) == pytest.approx(brute_auc(labels, scores), nan_ok=True, rel=1e-12)


@given(rows)
def test_gauc_is_the_weighted_mean_over_mixed_groups(drawn: list[tuple[int, float, int]]) -> None:
    labels, scores, groups = ([d[k] for d in drawn] for k in range(3))
    wanted = brute_gauc(labels, scores, groups)  # type: ignore[arg-type]
    got = gauc(labels, scores, np.array(groups))
    assert got == pytest.approx(wanted, nan_ok=True, rel=1e-12)
    names: npt.NDArray[np.str_] = np.array([f"user {g}" for g in groups], dtype=str)
    assert gauc(labels, scores, names) == pytest.approx(wanted, nan_ok=True, rel=1e-12)


def test_known_values() -> None:
    assert auc([1, 0, 1, 0], [0.9, 0.1, 0.8, 0.3]) == 1.0
    assert auc([1, 0], [0.2, 0.2]) == 0.5
    assert math.isnan(auc([1, 1], [0.2, 0.3]))
    assert math.isnan(auc([], []))
    # group 0: 3 rows, AUC 1; group 1: one class, skipped; group 2: 2 rows, AUC 0
    labels, scores, groups = [1, 0, 0, 1, 1, 0], [3, 2, 1, 0, 0, 5], np.array([0, 0, 0, 1, 2, 2])
    assert gauc(labels, scores, groups) == pytest.approx(3 / 5)
    assert logloss([1, 0], [0.8, 0.4]) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert math.isfinite(logloss([1, 0], [0.0, 1.0]))
    assert math.isnan(logloss([], []))


def test_a_million_rows_in_many_groups_stay_exact_and_quick() -> None:
    rng = np.random.default_rng(0)
    n = 1_000_000
    labels = rng.integers(0, 2, n)
    scores = rng.integers(0, 50, n) / 50 + labels * 0.1
    groups = rng.integers(0, 200_000, n)
    whole = gauc(labels, scores, groups)
    chosen = np.isin(groups, np.arange(20))
    assert 0.5 < whole < 0.7
    part = gauc(labels[chosen], scores[chosen], groups[chosen])
    wanted = brute_gauc(labels[chosen].tolist(), scores[chosen].tolist(), groups[chosen].tolist())
    assert part == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "labels: must be 0 or 1"),
        ([0, 1], [0.1, math.nan], r"scores\[1\]: is not a number"),
        ([0, 1], [0.1], "scores: must have the shape of labels"),
        ([[0, 1]], [[0.1, 0.2]], "one dimension"),
    ],
)
def test_bad_input_is_named(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        auc(labels, scores)


def test_bad_groups_and_probabilities_are_named() -> None:
    with pytest.raises(InvalidInput, match="groups"):
        gauc([0, 1], [0.1, 0.2], np.array([1]))
    with pytest.raises(InvalidInput, match="probabilities"):
        logloss([0, 1], [0.1, 1.2])


def test_metrics_need_no_torch() -> None:
    code = "import sys, training.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
