from __future__ import annotations

import numpy as np
import pytest

from tests.training.models.drawn import array, batch, layers, ranker, run, view_of
from tests.training.models.equations import din
from training.models.id_interest import DinInterest, MeanInterest


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("position", [False, True])
def test_din_is_the_activation_unit_over_the_concatenation(softmax: bool, position: bool) -> None:
    model = ranker(id_interest="din_position" if position else "din", din_softmax=softmax)
    view = view_of(model, batch())
    module = model.id_interest
    assert isinstance(module, DinInterest)
    got = array(module(view))
    units = layers(module)
    for b, mask in enumerate(view.behaviour_mask.numpy()):
        keys = array(view.behaviours[b])
        if module.position is not None:
            keys = keys + array(module.position)[np.arange(len(keys))[::-1]]  # newest last has age 0
        for n, query in enumerate(array(view.candidates[b])):
            wanted = din(query, keys, mask, units, soft=softmax)
            np.testing.assert_allclose(got[b, n], wanted, rtol=1e-5, atol=1e-5)


def test_mean_is_over_the_valid_behaviours_only() -> None:
    model = ranker(id_interest="mean")
    view = view_of(model, batch())
    assert isinstance(model.id_interest, MeanInterest)
    got = array(model.id_interest(view))
    for b, mask in enumerate(view.behaviour_mask.numpy()):
        wanted = array(view.behaviours[b])[mask].sum(0) / max(1, mask.sum())
        np.testing.assert_allclose(got[b], np.tile(wanted, (4, 1)), rtol=1e-5, atol=1e-6)


def test_position_is_learned_by_age_not_by_slot() -> None:
    """The same history in a shorter tensor has the same ages."""
    model = ranker(id_interest="din_position")
    drawn = batch()
    short = drawn._replace(
        candidates=drawn.candidates[:2],
        behaviours=drawn.behaviours[:2],
        behaviour_mask=drawn.behaviour_mask[:2],
    )
    length = max(1, int(short.behaviour_mask.sum(1).max()))
    assert length < 24
    cut = short._replace(
        behaviours=short.behaviours[:, -length:], behaviour_mask=short.behaviour_mask[:, -length:]
    )
    np.testing.assert_allclose(
        array(run(model, cut).logit), array(run(model, short).logit), rtol=1e-5, atol=1e-6
    )
