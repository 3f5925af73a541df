from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from tests.training.serving_graph.rankers import ranker
from training.models.dmae import Dmae, DmaeConfig
from training.models.mieu import Mieu
from training.serving_graph.mieu import encode, positions, score_bound, similarity_table


def mieu(**changes: object) -> Mieu:
    dmae = cast(Dmae, ranker(DmaeConfig(dim=16, **changes)).content[0])  # type: ignore[arg-type]
    return cast(Mieu, dmae.mieu[0])


@pytest.mark.parametrize("se", [False, True])
def test_the_encoding_is_mieu_s(se: bool) -> None:
    module = mieu(without_mieu_se=not se)
    r = torch.linspace(0, 1, 301)
    with torch.no_grad():
        wanted = module(r.view(1, 1, -1), torch.zeros(301, dtype=torch.int64))[0, 0].numpy()
    bucket = np.floor(r.numpy() * np.float32(49)).astype(np.int64)
    got = encode(module, r.double().numpy(), bucket) + positions(module)[-1]
    assert np.abs(np.maximum(got, 0) - wanted).max() < 2e-5


@pytest.mark.parametrize("cells", [1, 4, 64])
def test_rows_are_exact_at_their_ends_and_never_cross_a_bucket(cells: int) -> None:
    module = mieu()
    table = similarity_table(module, cells)
    assert table.shape == (49 * (cells + 1) + 2, 16)
    for bucket in (0, 7, 48):
        first = bucket * (cells + 1)
        ends = np.array([bucket, bucket + 1]) / 49
        assert np.allclose(table[[first, first + cells]], encode(module, ends, np.array([bucket] * 2)))
    assert np.allclose(table[-1], encode(module, np.ones(1), np.array([49]))[0])
    jump = np.abs(table[cells] - table[cells + 1]).max()  # from the end of bucket 0 to the start of bucket 1
    assert jump > 1e-3


@pytest.mark.parametrize("cells", [1, 64, 1024])
def test_a_position_always_reads_rows_of_its_bucket(cells: int) -> None:
    last = np.float32(49)
    edges = np.arange(50, dtype=np.float32)
    around = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(99))])
    x = np.clip(np.concatenate([around, np.random.default_rng(0).uniform(0, 49, 9_999)]), 0, last)
    x = x.astype(np.float32)
    position = x * np.float32(cells) + np.floor(x)
    row = np.floor(position).astype(np.int64)
    inside = position - row
    bucket = np.floor(x).astype(np.int64)
    first = bucket * (cells + 1)
    assert (row >= first).all()
    assert (row <= first + cells).all()
    assert (inside[row == first + cells] == 0)[bucket[row == first + cells] < 49].all()


def test_the_table_comes_closer_with_more_cells() -> None:
    module = mieu()
    r = np.random.default_rng(0).uniform(0, 1, 4_000)
    bucket = np.floor(r * 49).astype(np.int64)
    wanted = encode(module, r, bucket)
    errors = []
    for cells in (16, 64, 256):
        table = similarity_table(module, cells)
        position = r * 49 * cells + bucket
        row = np.floor(position).astype(np.int64)
        inside = (position - row)[:, None]
        errors.append(np.abs(table[row] + inside * (table[row + 1] - table[row]) - wanted).max())
    assert errors[2] < errors[1] / 2 < errors[0] / 4


def test_no_score_is_above_the_bound() -> None:
    module = mieu()
    rng = np.random.default_rng(0)
    table, places, folded = similarity_table(module, 16), positions(module), rng.normal(size=(16, 16))
    tokens = np.maximum(
        table[rng.integers(0, len(table), 500)] + places[rng.integers(0, len(places), 500)], 0
    )
    bound = score_bound(table, places, folded)
    assert np.abs(tokens @ folded @ tokens.T).max() <= bound
    assert bound < np.inf
