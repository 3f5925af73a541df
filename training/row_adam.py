"""Adam on the rows of a large table that a batch touched, and on no others."""

from __future__ import annotations

import torch
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class RowAdam:
    """Lazy Adam (the update of torch.optim.SparseAdam) for (rows, d) float32 tables.

    Batches here hold unique rows, so the gradient comes as rows and no sparse tensor is built; a step
    costs O(touched rows). Moments of other rows stay as they are.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.mean = torch.zeros_like(table)
        self.square = torch.zeros_like(table)
        self.step_count = 0

    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """rows: (K,) int64, distinct; gradient: (K, d) of the loss by table[rows]."""
        self.step_count += 1
        mean = torch.lerp(self.mean[rows], gradient, 1 - _BETA1)
        square = torch.lerp(self.square[rows], gradient * gradient, 1 - _BETA2)
        self.mean[rows] = mean
        self.square[rows] = square
        unbiased = (1 - _BETA2**self.step_count) ** 0.5 / (1 - _BETA1**self.step_count)
        self.table[rows] -= learning_rate * unbiased * mean / (square.sqrt() + _EPSILON)
