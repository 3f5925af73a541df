from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from tests.training.models.drawn import DIM, array, batch, ranker, run, view_of
from tests.training.models.equations import ciubm
from training.models.ciubm import Ciubm, CiubmConfig, Weighting


@pytest.mark.parametrize("weighting", get_args(Weighting))
def test_content_and_fusion_are_equations_7_and_8(weighting: Weighting) -> None:
    model = ranker(CiubmConfig(weighting=weighting, temperature=0.2))
    module = model.content[0]
    assert isinstance(module, Ciubm)
    temperature = 0.2
    if weighting == "softmax":
        with torch.no_grad():
            module.log_temperature.fill_(float(np.log(temperature)))
    drawn = batch()
    view = view_of(model, drawn)
    got = array(module(view).features)
    codes = drawn.rows.codes.numpy()[:, 2 * DIM :].astype(np.float64)
    present = drawn.rows.inv_norm.numpy()[:, 2] > 0
    assert not present[drawn.behaviours.numpy()[2]].all()  # some fused vectors are missing
    for b, (history, mask) in enumerate(
        zip(drawn.behaviours.numpy(), drawn.behaviour_mask.numpy(), strict=True)
    ):
        for n, target in enumerate(drawn.candidates.numpy()[b]):
            counted = mask & present[history] & present[target]
            vectors = codes[history] * present[history, None]
            content, fusion = ciubm(
                codes[target], vectors, array(view.behaviours[b]), counted, weighting, temperature
            )
            np.testing.assert_allclose(got[b, n], np.concatenate([content, fusion]), rtol=1e-5, atol=1e-5)


def test_each_module_can_be_removed() -> None:
    whole, content, fusion = (
        ranker(CiubmConfig(content=c, fusion=f)).content[0]
        for c, f in ((True, True), (True, False), (False, True))
    )
    view = view_of(ranker(CiubmConfig()), batch())
    features = whole(view).features
    torch.testing.assert_close(content(view).features, features[..., :DIM])
    torch.testing.assert_close(fusion(view).features, features[..., DIM:])
    without_id = ranker(CiubmConfig(), id_interest="none")
    assert without_id.id_interest is None
    assert run(without_id, batch()).logit.shape == (3, 4)


def test_a_projection_is_linear_in_the_content_interest() -> None:
    model = ranker(CiubmConfig(projection=5, fusion=False))
    module = model.content[0]
    assert isinstance(module, Ciubm)
    view = view_of(model, batch())
    plain = ranker(CiubmConfig(fusion=False)).content[0](view).features
    torch.testing.assert_close(module(view).features, module.projection(plain))


def test_a_config_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="needs the content or the fusion module"):
        CiubmConfig(content=False, fusion=False)
    with pytest.raises(InvalidInput, match=r"ciubm\.weighting.*'max'"):
        CiubmConfig(weighting="max")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"ciubm\.temperature"):
        CiubmConfig(temperature=0.0)
