"""SimTier and the target's own vector."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from tests.training.models.drawn import DIM, T_MAX, array, batch, ranker, view_of
from tests.training.models.equations import distribution
from training.models.simtier import SimTier, SimTierConfig
from training.models.target_vector import TargetVector, TargetVectorConfig


@pytest.mark.parametrize("windows", [1, 4])
def test_simtier_weighs_each_tier_by_log1p_of_its_count(windows: int) -> None:
    model = ranker(SimTierConfig(tiers=6, dim=5, windows=windows))
    module = model.content[0]
    assert isinstance(module, SimTier)
    view = view_of(model, batch())
    got = array(module(view).features)
    assert got.shape == (3, 4, 2 * windows * 5)
    for b in range(3):
        for n in range(4):
            parts = []
            for m, name in enumerate(("text", "image")):
                mask = view.content[name].mask[b, n].numpy()
                r = ((view.content[name].cosine[b, n] + 1) * 0.5).numpy()
                counts = distribution(r, view.ages.numpy(), mask, 6, windows, T_MAX) * mask.sum()
                table = array(module.tiers[m]).reshape(windows, 6, 5)
                parts += [np.log1p(counts[w]) @ table[w] for w in range(windows)]
            np.testing.assert_allclose(got[b, n], np.concatenate(parts), rtol=1e-5, atol=1e-5)


def test_the_target_vector_is_the_unit_vector_or_zero() -> None:
    model = ranker(TargetVectorConfig(modalities=("fused", "text")))
    module = model.content[0]
    assert isinstance(module, TargetVector)
    drawn = batch(candidates=12)
    got = array(module(view_of(model, drawn)).features)
    codes, inv = drawn.rows.codes.numpy().astype(np.float64), drawn.rows.inv_norm.numpy()
    seen_missing = False
    for place, row in np.ndenumerate(drawn.candidates.numpy()):
        for part, m in enumerate((2, 0)):
            vector = got[place][part * DIM : (part + 1) * DIM]
            if inv[row, m] == 0:
                seen_missing = True
                assert not vector.any()
            else:
                own = codes[row, m * DIM : (m + 1) * DIM]
                np.testing.assert_allclose(vector, own / np.linalg.norm(own), rtol=1e-5, atol=1e-6)
    assert seen_missing


def test_the_target_vector_can_be_projected() -> None:
    model = ranker(TargetVectorConfig(projection=3))
    view = view_of(model, batch())
    plain = ranker(TargetVectorConfig()).content[0](view).features
    module = model.content[0]
    assert isinstance(module, TargetVector)
    torch.testing.assert_close(module(view).features, module.projections[0](plain))


def test_wrong_configs_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"simtier\.tiers"):
        SimTierConfig(tiers=0)
    with pytest.raises(InvalidInput, match=r"simtier\.modalities"):
        SimTierConfig(modalities=("text", "text"))
    with pytest.raises(InvalidInput, match=r"target_vector\.modalities"):
        TargetVectorConfig(modalities=())
    with pytest.raises(InvalidInput, match=r"target_vector\.projection"):
        TargetVectorConfig(projection=0)
