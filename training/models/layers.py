"""Small pieces that several interest modules share. Nothing here holds parameters but `mlp`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MASKED = -1e9  # finite, so that a row with nothing to attend to gives no NaN, forward or backward


def mlp(width: int, hidden: Sequence[int], out: int) -> nn.Sequential:
    """width -> hidden[0] -> ... -> out with ReLU in between, none at the end."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(inplace=True)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))


def table(rows: int, dim: int, std: float) -> nn.Parameter:
    """An embedding table: (rows, dim) float32, normal with this standard deviation."""
    return nn.Parameter(torch.randn(rows, dim) * std)


def ages(length: int, device: torch.device) -> Tensor:
    """Age of each behaviour, newest last has age 0: (T,) int64 = T-1 ... 0."""
    return length - 1 - torch.arange(length, device=device)


def mean_weights(mask: Tensor) -> Tensor:
    """mask: (..., T) bool -> (..., T) float32 that sum to 1, all zero where nothing is valid."""
    weights = mask.float()
    return weights / weights.sum(-1, keepdim=True).clamp(min=1.0)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the valid entries, zeros where nothing is valid. scores, mask: (..., T)."""
    return torch.softmax(scores.masked_fill(~mask, MASKED), dim=-1) * mask


def pool(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted sum over T: weights (P, T), values (P, T, d) -> (P, d)."""
    return torch.bmm(weights.unsqueeze(1), values).squeeze(1)
