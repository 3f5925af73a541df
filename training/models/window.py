"""Sliding-window attention whose cost is linear in T: blocks of queries read their own tokens and a halo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.layers import MASKED

BLOCK = 16  # queries per block; fastest of 8, 16, 32, 64 on one AVX-512 core at T=64, d=32, radius 5


def window_attention(queries: Tensor, tokens: Tensor, mask: Tensor, *, radius: int, causal: bool) -> Tensor:
    """softmax over the window of queries . tokens, times tokens.

    queries (1 / sqrt(d) applied), tokens: (P, T, d); mask: (P, T) bool, which tokens are valid -> (P, T, d).
    Query i reads tokens j with |i - j| <= radius, and j <= i where causal. The rows of invalid queries are
    finite but mean nothing: mask them out afterwards.
    """
    p, t, d = tokens.shape
    blocks = (t + BLOCK - 1) // BLOCK
    span = BLOCK + 2 * radius
    device = tokens.device
    at = torch.arange(blocks, device=device).unsqueeze(1) * BLOCK
    wanted = at + torch.arange(span, device=device) - radius  # (blocks, span) position of each token read
    index = wanted.clamp(min=0).minimum(torch.full_like(wanted, t - 1)).reshape(-1)
    offset = torch.arange(span, device=device) - radius - torch.arange(BLOCK, device=device).unsqueeze(1)
    near = offset.abs() <= radius
    if causal:
        near = near & (offset <= 0)
    readable = ((wanted >= 0) & (wanted < t)).unsqueeze(1) & near  # (blocks, BLOCK, span)
    key_bias = ((mask.to(tokens.dtype) - 1.0) * -MASKED).index_select(1, index).view(p, blocks, 1, span)
    bias = key_bias + torch.where(readable, 0.0, MASKED)

    blocked = F.pad(queries, (0, 0, 0, blocks * BLOCK - t)).view(p * blocks, BLOCK, d)
    read = tokens.index_select(1, index).view(p * blocks, span, d)
    scores = torch.baddbmm(bias.view(p * blocks, BLOCK, span), blocked, read.transpose(1, 2))
    out = torch.bmm(torch.softmax(scores, dim=-1), read)
    return out.view(p, blocks * BLOCK, d)[:, :t]
