"""Ranks in a fixed gallery, written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.recall import gains, mean_pairwise_cosine, ranks, recall


def unit(angles: list[float]) -> np.ndarray:
    radians = np.deg2rad(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_ranks_count_what_is_nearer_and_never_the_query_itself() -> None:
    vectors = unit([0, 10, 20, 30, 90])
    pairs = np.array([[0, 1], [0, 3], [0, 4], [3, 2]])
    found = ranks(vectors, vectors, pairs, np.arange(5))
    assert found.tolist() == [0, 2, 3, 0]
    assert ranks(vectors, vectors, pairs, np.array([1, 3, 4])).tolist() == [0, 1, 2, 0]
    assert recall(found, (1, 3)) == {1: 0.5, 3: 0.75}
    assert gains(np.array([0, 2])).tolist() == [1.0, 0.5]


def test_collapsed_vectors_find_nothing() -> None:
    vectors = np.tile(unit([5]), (100, 1))
    found = ranks(vectors, vectors, np.array([[0, 1], [2, 3]]), np.arange(100))
    assert found.tolist() == [98, 98]
    assert mean_pairwise_cosine(vectors) == pytest.approx(1.0, abs=1e-6)


def test_a_missing_vector_ranks_last_and_never_competes() -> None:
    vectors = unit([0, 10, 20, 30])
    vectors[1] = 0
    found = ranks(vectors, vectors, np.array([[1, 0], [0, 1], [0, 3]]), np.arange(4))
    assert found.tolist() == [4, 4, 1]


def test_mean_pairwise_cosine_is_that_of_all_different_pairs() -> None:
    vectors = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = vectors @ vectors.T
    expected = table[~np.eye(7, dtype=bool)].mean()
    with_missing = np.concatenate([vectors, np.zeros((3, 3), dtype=np.float32)])
    assert mean_pairwise_cosine(with_missing) == pytest.approx(expected, abs=1e-6)
    assert mean_pairwise_cosine(vectors[:1]) == 0.0
