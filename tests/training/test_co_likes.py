from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import training.co_likes
from contracts.errors import InvalidInput
from tests.training.data import tables
from training.co_likes import CoLikes, Likes, train_likes


def drawn(users: int = 40, items: int = 30, seed: int = 0) -> Likes:
    """Popularity falls with the row; the last two items are liked by nobody."""
    rng = np.random.default_rng(seed)
    chance = np.linspace(0.6, 0.1, items) * (np.arange(items) < items - 2)
    pairs = np.argwhere(rng.random((users, items)) < chance)
    return Likes(pairs[:, 0], pairs[:, 1], items)


def by_hand(
    likes: Likes, rows: npt.NDArray[np.int64], shrinkage: float, exponent: float
) -> npt.NDArray[np.float64]:
    table = np.zeros((likes.users.max() + 1, likes.size))
    table[likes.users, likes.items] = 1
    size = table.sum(axis=1)
    rates = np.where(size > 0, np.maximum(size, 1.0) ** -exponent, 0)
    counts, plain = (table * rates[:, None]).T @ table, table.T @ table
    for square in (counts, plain):
        np.fill_diagonal(square, 0)
    popularity = counts.sum(axis=1)
    expected = np.outer(popularity, popularity) / popularity.sum()
    s = shrinkage * counts.sum() / plain.sum()
    lift = np.log((counts + s) / (expected + s))
    np.fill_diagonal(lift, 0)
    out: npt.NDArray[np.float64] = lift[np.ix_(rows, rows)]
    return out


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("kept", [8192, 0])
def test_the_lift_is_the_formula_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, exponent: float, kept: int
) -> None:
    likes = drawn()
    monkeypatch.setattr(training.co_likes, "_CELLS", 100)
    monkeypatch.setattr(training.co_likes, "_PAIRS", 37)
    monkeypatch.setattr(training.co_likes, "MAX_KEPT_ITEMS", kept)
    lift = CoLikes(likes, shrinkage=3.0, user_exponent=exponent)
    assert np.array_equal(lift.rows, np.flatnonzero(likes.counts))
    expected = by_hand(likes, lift.rows, 3.0, exponent)
    for _ in range(2):  # the second pass reads what was kept, or counts anew
        blocks = list(lift.blocks())
        assert len(blocks) > 3
        assert np.allclose(np.vstack([block for _, block in blocks]), expected, atol=1e-6)
    right = np.random.default_rng(1).normal(size=(len(lift), 4))
    assert np.allclose(lift.times(right), expected @ right, atol=1e-5)


def test_randomised_directions_agree_with_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    taste, kind = np.arange(200) % 4, np.arange(120) % 4
    chance = np.where(taste[:, None] == kind, 0.4, 0.05)
    pairs = np.argwhere(rng.random((200, 120)) < chance)
    lift = CoLikes(Likes(pairs[:, 0], pairs[:, 1], 120))
    values, vectors = lift.directions(3)
    monkeypatch.setattr(training.co_likes, "MAX_DENSE_ITEMS", 10)
    close_values, close_vectors = lift.directions(3)
    assert np.allclose(values, close_values, rtol=1e-3)
    assert np.linalg.norm(vectors.T @ close_vectors, 2) == pytest.approx(1, abs=1e-3)
    assert np.linalg.svd(vectors.T @ close_vectors, compute_uv=False).min() > 0.99
    assert np.array_equal(close_vectors, lift.directions(3)[1])


def test_likes_are_the_latest_distinct_positives_of_training() -> None:
    train, val = 0, 1
    rows = [  # user, item, time, label, request, split
        (0, 4, 1, 1, 0, train),
        (0, 1, 2, 1, 1, train),
        (1, 1, 3, 1, 2, train),
        (0, 2, 4, 0, 3, train),
        (0, 3, 5, 1, 4, train),
        (0, 1, 6, 1, 5, train),
        (0, 0, 7, 1, 6, train),
        (1, 5, 8, 1, 7, train),
        (1, 0, 9, 1, 8, val),
    ]
    data = tables.dataset(rows, items=6, users=2)
    new = np.arange(6) == 5
    likes = train_likes(data, new, max_likes=3)
    assert [(u, i) for u, i in zip(likes.users.tolist(), likes.items.tolist(), strict=True)] == [
        (0, 0),
        (0, 1),
        (0, 3),
        (1, 1),
    ]
    assert CoLikes(likes).rows.tolist() == [0, 1, 3]
    with pytest.raises(InvalidInput, match=r"new: must have shape \(6,\)"):
        train_likes(data, new[:5])
    with pytest.raises(InvalidInput, match="max_likes"):
        train_likes(data, new, max_likes=1)


def test_likes_without_a_pair_or_malformed_are_refused() -> None:
    one = np.arange(3)
    with pytest.raises(InvalidInput, match="likes: must hold a user who likes two items"):
        CoLikes(Likes(one, one, 3))
    with pytest.raises(InvalidInput, match=r"likes\.items: must be 0 to 1"):
        CoLikes(Likes(one, one, 2))
    with pytest.raises(InvalidInput, match=r"likes\.users: must be sorted"):
        CoLikes(Likes(one[::-1], one, 3))
    with pytest.raises(InvalidInput, match="likes: holds a pair twice"):
        CoLikes(Likes(np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64), 3))
    with pytest.raises(InvalidInput, match="shrinkage"):
        CoLikes(drawn(), shrinkage=0.0)
    with pytest.raises(InvalidInput, match="user_exponent"):
        CoLikes(drawn(), user_exponent=-1.0)
