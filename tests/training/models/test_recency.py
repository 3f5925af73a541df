"""Similarity per recency window and the query's similarity against plain numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from contracts.errors import InvalidInput
from tests.training.models.drawn import DIM, T_MAX, array, batch, ranker, view_of
from training.models.query import QueryConfig, QuerySimilarity
from training.models.recency import RecencySimilarity, RecencySimilarityConfig, windows


@pytest.mark.parametrize("length", [1, 2, 3, 6, 24, T_MAX])
def test_each_window_has_the_mean_and_maximum_of_its_ages(length: int) -> None:
    config = RecencySimilarityConfig(modalities=("text", "fused"), starts=(0, 1, 3, 7))
    drawn = batch(rows=60, requests=7, behaviours=length)
    view = view_of(ranker(config), drawn)
    got = array(RecencySimilarity(config)(view).features)
    edges = [*config.starts, 10**9]
    for b in range(7):
        for n in range(4):
            column = 0
            for name in config.modalities:
                compared = view.content[name]
                cosine, mask = array(compared.cosine)[b, n], compared.mask.numpy()[b, n]
                age = length - 1 - np.arange(length)
                for low, high in pairwise(edges):
                    inside = mask & (age >= low) & (age < high)
                    wanted = (2 * cosine[inside].mean(), 2 * cosine[inside].max()) if inside.any() else (0, 0)
                    np.testing.assert_allclose(got[b, n, column : column + 2], wanted, rtol=1e-5, atol=1e-5)
                    column += 2
            assert column == got.shape[2]


def test_windows_cover_every_behaviour_once() -> None:
    for length in range(1, 40):
        covered = [i for first, end in windows((0, 1, 3, 7, 15, 31), length) for i in range(first, end)]
        assert sorted(covered) == list(range(length))


@pytest.mark.parametrize("starts", [(), (1, 2), (0, 2, 2), (0, 3, 1)])
def test_windows_that_do_not_ascend_from_zero_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"recency_similarity\.starts"):
        RecencySimilarityConfig(starts=starts)


def test_a_query_is_compared_with_every_candidate() -> None:
    config = QueryConfig(modalities=("image", "fused"))
    drawn = batch(requests=9)
    got = array(QuerySimilarity(config)(view_of(ranker(config), drawn)).features)
    assert got.shape == (9, 4, 4)
    rows = drawn.rows
    for place, m in enumerate((1, 2)):
        part = slice(m * DIM, (m + 1) * DIM)
        item = array(rows.codes)[:, part] * array(rows.inv_norm)[:, m : m + 1]
        query = array(drawn.query_codes)[:, part] * array(drawn.query_inv_norm)[:, m : m + 1]
        candidates = drawn.candidates.numpy()
        np.testing.assert_allclose(
            got[:, :, 2 * place], np.einsum("bnd,bd->bn", item[candidates], query), rtol=1e-5, atol=1e-5
        )
        there = (array(rows.inv_norm)[candidates, m] > 0) & (array(drawn.query_inv_norm)[:, m : m + 1] > 0)
        np.testing.assert_array_equal(got[:, :, 2 * place + 1], there)
    assert 0 < got[:, :, 1].mean() < 1


def test_names_of_modalities_are_checked() -> None:
    with pytest.raises(InvalidInput, match=r"query\.modalities"):
        QueryConfig(modalities=())
    with pytest.raises(InvalidInput, match=r"recency_similarity\.modalities"):
        RecencySimilarityConfig(modalities=("text", "text"))
    with pytest.raises(InvalidInput, match="is not one of the modalities"):
        ranker(QueryConfig(modalities=("sound",)))
