"""Hand-written forward and backward passes beside plain operators and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.models import attention_unit, window
from training.models.attention_unit import unit_scores
from training.models.dense import dense
from training.models.window import window_attention


def _drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("relu", [False, True])
def test_gradient_of_dense(relu: bool) -> None:
    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return dense(x, weight, bias, relu=relu)

    assert torch.autograd.gradcheck(function, (_drawn(5, 3, 4), _drawn(6, 4), _drawn(6)))


def test_dense_in_float32_of_a_weight_with_strides() -> None:
    x, wide = _drawn(70, 32, dtype=torch.float32), _drawn(24, 64, dtype=torch.float32)
    weight = wide[:, :32]
    ours = dense(x, weight, relu=True)
    plain = torch.relu(x @ weight.t())
    torch.testing.assert_close(ours, plain)
    down = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, (x, wide), down), torch.autograd.grad(plain, (x, wide), down), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_attention_unit_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_unit, "_BLOCK", 12)  # 2 requests of 2 candidates and 3 behaviours
    inputs = (_drawn(5, 2, 4), _drawn(5, 3, 4), _drawn(5, 2, 6), _drawn(6, 8))
    weights = (_drawn(3, 6), _drawn(3), _drawn(1, 3), _drawn(1))
    assert torch.autograd.gradcheck(unit_scores, (*inputs, *weights))


@pytest.mark.parametrize(("length", "radius", "causal"), [(16, 2, False), (19, 9, True), (7, 0, False)])
def test_gradient_of_window_attention(
    monkeypatch: pytest.MonkeyPatch, length: int, radius: int, causal: bool
) -> None:
    monkeypatch.setattr(window, "_PAIRS", 1)
    mask = torch.rand(3, length) > 0.3

    def function(queries: Tensor, tokens: Tensor) -> Tensor:
        out = window_attention(queries, tokens, mask, radius=radius, causal=causal)
        return out * mask.unsqueeze(2)

    assert torch.autograd.gradcheck(function, (_drawn(3, length, 2), _drawn(3, length, 2)))
