"""IDDU, DMAE's Interest-Distribution Decoding Unit (eq 10 to 13). The exported graph does not have it.

It decodes interest vectors into the share of behaviours per age region and similarity interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from training.losses import Decoder, decoding_divergence
from training.models.layers import mean_weights, mlp
from training.models.mifu import Tokens
from training.models.similarity import histogram


def interest_distribution(
    r: Tensor, mask: Tensor, ages: Tensor, *, intervals: int, regions: int, history_length: int
) -> Tensor:
    """Eq 10, D9: (B, N, regions * intervals), the share of valid behaviours per cell; zero without any."""
    counts = histogram(r, mask, ages, intervals=intervals, regions=regions, history_length=history_length)
    return counts / mask.sum(-1, keepdim=True).clamp(min=1)


def _alone(count: Tensor) -> Tensor:
    return count


class Iddu(nn.Module):
    """tokens r̂ of P pairs, distribution: (P, cells) -> () float32, eq 13.

    A random part of the valid tokens is masked out (eq 11, D11; at least one is kept), the mean of the rest
    is decoded (eq 12) and compared with the distribution of the unmasked sequence (D13). Pairs without a
    valid token are left out of the mean. draws: (P, T) float32 in [0, 1), those below mask_ratio mask a
    token out; None = torch's own. total: sums a count over the ranks of a distributed run, so that the mean
    is over the pairs of all ranks.
    """

    def __init__(self, dim: int, hidden: int, cells: int, mask_ratio: float, decoder: Decoder) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio
        self.decoder = decoder
        self.mlp = mlp(dim, (hidden,), cells)
        # q starts near uniform: at 1/2 in each of 100 cells L_dec is some 50 nats and drowns the rest
        nn.init.constant_(cast(nn.Linear, self.mlp[-1]).bias, -math.log(max(1, cells - 1)))
        self.total: Callable[[Tensor], Tensor] = _alone

    def forward(self, tokens: Tokens, distribution: Tensor, draws: Tensor | None = None) -> Tensor:
        mask = tokens.mask
        if draws is None:
            draws = torch.rand(mask.shape, device=mask.device)
        draw = draws.masked_fill(~mask, -1.0)
        kept = mask & ((draw >= self.mask_ratio) | (draw == draw.amax(1, keepdim=True)))
        decoded = self.mlp(tokens.pool(mean_weights(kept)))
        divergence = decoding_divergence(distribution, decoded.float(), self.decoder)
        occupied = mask.any(1)
        return (divergence * occupied).sum() / self.total(occupied.sum()).clamp(min=1)
