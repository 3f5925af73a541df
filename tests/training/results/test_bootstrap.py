from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from contracts.errors import InvalidInput, TooLarge
from training.evaluation import sigmoid
from training.metrics import auc, gauc, logloss
from training.results.bootstrap import METRICS, Users, bootstrap, group_aucs, weighted_auc

ROWS, USERS, DRAWS = 600, 23, 40


def _drawn(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Labels, scores with many ties, users."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(ROWS) < 0.3).astype(np.float32)
    scores = (np.round(rng.normal(size=ROWS) + labels, 1)).astype(np.float32)
    return labels, scores, rng.integers(0, USERS, ROWS).astype(np.int32) * 7


def _requests(users: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    return users.astype(np.int64) * 100 + np.arange(ROWS) % 5


@pytest.mark.parametrize("seed", [0, 1])
def test_every_draw_is_the_metric_of_its_rows_written_out(seed: int) -> None:
    labels, scores, ids = _drawn(seed)
    requests = _requests(ids)
    users = Users.drawn(ids, DRAWS, seed)
    inside = np.random.default_rng(9).random(ROWS) < 0.8
    drawn = bootstrap(labels, scores, requests, users, inside)
    assert set(drawn) == set(METRICS)
    kept = np.flatnonzero(inside)
    for n in range(DRAWS + 1):
        counts = users.multiplicity[n - 1] if n else np.ones(USERS)
        times = counts[users.index[kept]].astype(int)
        rows = np.repeat(kept, times)
        copy = np.concatenate([np.arange(t) for t in times])  # each copy of a user is a user of its own
        y, s = labels[rows], scores[rows]
        assert drawn["auc"][n] == pytest.approx(auc(y, s), abs=1e-12)
        assert drawn["gauc_user"][n] == pytest.approx(gauc(y, s, ids[rows] * 1000 + copy), abs=1e-12)
        assert drawn["gauc_request"][n] == pytest.approx(gauc(y, s, requests[rows] * 1000 + copy), abs=1e-12)
        assert drawn["logloss"][n] == pytest.approx(logloss(y, sigmoid(s)), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 2, 6])
def test_blocks_and_ties_across_them_change_nothing(decimals: int) -> None:
    """Thousands of rows, so several blocks; with one value in ten or fewer, runs longer than a block."""
    rng = np.random.default_rng(decimals)
    labels = (rng.random(5_000) < 0.4).astype(np.float32)
    scores = np.round(rng.random(5_000) * (0.6 if decimals == 0 else 1) + 0.1 * labels, decimals).astype(
        np.float32
    )
    owners = rng.integers(0, 9, 5_000)
    weights = rng.integers(0, 4, (6, 9)).astype(np.float64)
    out = weighted_auc(labels, scores, owners, weights)
    for n, each in enumerate(weights):
        rows = np.repeat(np.arange(5_000), each[owners].astype(int))
        assert out[n] == pytest.approx(auc(labels[rows], scores[rows]), abs=1e-12)


def test_a_draw_of_one_class_has_no_auc() -> None:
    labels, scores = np.array([1, 0], np.float32), np.array([0.3, 0.2], np.float32)
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    out = weighted_auc(labels, scores, np.array([0, 1]), weights)
    assert out[0] == 1.0
    assert np.isnan(out[1])
    assert np.isnan(weighted_auc(labels[:0], scores[:0], np.zeros(0, np.int64), weights)).all()


def test_groups_keep_their_owner() -> None:
    labels = np.array([1, 0, 1, 0, 0], np.float32)
    scores = np.array([2, 1, 1, 1, 5], np.float32)
    area, size, owner = group_aucs(labels, scores, np.array([7, 7, 3, 3, 9]), np.array([1, 1, 0, 0, 2]))
    assert area.tolist() == [0.5, 1.0]
    assert size.tolist() == [2.0, 2.0]
    assert owner.tolist() == [0, 1]


def test_the_draws_are_as_wide_as_the_users_make_the_auc() -> None:
    """Against the spread of AUCs over freshly drawn users, which is what a bootstrap stands for."""
    rng = np.random.default_rng(4)

    def fresh() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        skill = rng.normal(1, 1, 200)
        users = np.repeat(np.arange(200), 10).astype(np.int32)
        labels = (rng.random(2000) < 0.4).astype(np.float32)
        return labels, (rng.normal(size=2000) + labels * skill[users]).astype(np.float32), users

    spread = np.std([auc(*fresh()[:2]) for _ in range(200)])
    labels, scores, ids = fresh()
    users = Users.drawn(ids, 500, 0)
    drawn = weighted_auc(labels, scores, users.index, users.multiplicity)
    assert drawn.std() == pytest.approx(spread, rel=0.3)


def test_more_users_than_a_dense_matrix_holds_are_refused() -> None:
    with pytest.raises(TooLarge, match="users"):
        weighted_auc(
            np.ones(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), np.ones((1, 9_000))
        )


def test_at_least_one_draw() -> None:
    with pytest.raises(InvalidInput, match="draws"):
        Users.drawn(np.zeros(3, np.int32), 0, 0)
