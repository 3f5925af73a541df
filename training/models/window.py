"""Sliding-window attention whose cost is linear in T: blocks of queries read their own tokens and a halo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.dense import written_out
from training.models.layers import MASKED

BLOCK = 16  # queries per block; fastest of 8, 16, 32, 64 on one AVX-512 core at T=64, d=32, radius 5
_PAIRS = 96  # sequences per pass of the hand-written function; what a pass touches fits a second-level cache


def window_attention(queries: Tensor, tokens: Tensor, mask: Tensor, *, radius: int, causal: bool) -> Tensor:
    """softmax over the window of queries . tokens, times tokens.

    queries (1 / sqrt(d) applied), tokens: (P, T, d); mask: (P, T) bool, which tokens are valid -> (P, T, d).
    Query i reads tokens j with |i - j| <= radius, and j <= i where causal. The rows of invalid queries are
    finite but mean nothing: mask them out afterwards.
    """
    if not written_out(tokens):
        return _gathered(queries, tokens, mask, radius, causal)
    t = tokens.shape[1]
    spare = -t % BLOCK
    if spare:
        queries, tokens = F.pad(queries, (0, 0, 0, spare)), F.pad(tokens, (0, 0, 0, spare))
        mask = F.pad(mask, (0, spare))
    out: Tensor = _Window.apply(queries, tokens, mask, radius, causal)  # type: ignore[no-untyped-call]
    return out[:, :t]


class _Window(torch.autograd.Function):
    """T a multiple of BLOCK. A block's tokens and halo are a view: sequences lie end to end, `halo` rows
    before the first and after the last; what a view shows of a neighbouring sequence is never readable.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, tokens: Tensor, mask: Tensor, radius: int, causal: bool) -> Tensor:
        p, t, d = tokens.shape
        halo = -(-radius // (BLOCK // 2)) * (BLOCK // 2)
        ctx.sizes = p, t, d, halo
        padded = tokens.new_zeros(p * t + 2 * halo, d)
        padded[halo : halo + p * t] = tokens.reshape(-1, d)
        blocked = queries.reshape(-1, BLOCK, d)
        valid = F.pad(mask.reshape(-1), (halo, halo))
        span = BLOCK + 2 * halo
        seen = valid.as_strided((p, t // BLOCK, 1, span), (t, BLOCK, 0, 1))
        readable = seen & _near(t, radius, halo, causal, tokens.device)  # (P, blocks, BLOCK, span)
        bias = torch.where(readable, 0.0, MASKED).to(tokens.dtype).view(-1, BLOCK, span)
        read = _windows(padded, p * t // BLOCK, span)
        out, ctx.weights = torch.empty_like(blocked), []
        for part in _parts(p, t):
            scores = torch.baddbmm(bias[part], blocked[part], read[part].transpose(1, 2))
            weights = torch.softmax(scores, dim=-1)
            torch.bmm(weights, read[part], out=out[part])
            ctx.weights.append(weights)
        ctx.save_for_backward(blocked, padded)
        return out.view(p, t, d)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        blocked, padded = ctx.saved_tensors
        p, t, d, halo = ctx.sizes
        span = BLOCK + 2 * halo
        read = _windows(padded, p * t // BLOCK, span)
        g = gradient.reshape(-1, BLOCK, d)
        d_queries = torch.empty_like(blocked)
        d_padded = padded.new_zeros(padded.shape)
        for part, weights in zip(_parts(p, t), ctx.weights, strict=True):
            d_weights = torch.bmm(g[part], read[part].transpose(1, 2))
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, read[part], out=d_queries[part])
            d_read = torch.bmm(d_scores.transpose(1, 2), blocked[part])
            d_read.baddbmm_(weights.transpose(1, 2), g[part])
            first = part.start * BLOCK
            rows = (part.stop - part.start) * BLOCK
            for at in range(0, span, BLOCK):  # windows overlap, the same BLOCK rows of each do not
                where = d_padded[first + at : first + at + rows]
                where.view(-1, BLOCK, d).add_(d_read[:, at : at + BLOCK])
        d_tokens = d_padded[halo : halo + p * t].view(p, t, d)
        return d_queries.view(p, t, d), d_tokens, None, None, None


def _windows(padded: Tensor, count: int, span: int) -> Tensor:
    """(count, span, d), window w begins at row w * BLOCK."""
    d = padded.shape[1]
    return padded.as_strided((count, span, d), (BLOCK * d, d, 1))


def _parts(p: int, t: int) -> list[slice]:
    blocks = t // BLOCK
    step = max(1, _PAIRS * 64 // t)
    return [slice(at * blocks, min(at + step, p) * blocks) for at in range(0, p, step)]


def _near(t: int, radius: int, halo: int, causal: bool, device: torch.device) -> Tensor:
    """(blocks, BLOCK, span) bool: inside the sequence, inside the window."""
    span = BLOCK + 2 * halo
    offset = torch.arange(span, device=device) - halo - torch.arange(BLOCK, device=device).unsqueeze(1)
    near = offset.abs() <= radius
    if causal:
        near = near & (offset <= 0)
    wanted = torch.arange(0, t, BLOCK, device=device).unsqueeze(1) + torch.arange(span, device=device) - halo
    return ((wanted >= 0) & (wanted < t)).unsqueeze(1) & near


def _gathered(queries: Tensor, tokens: Tensor, mask: Tensor, radius: int, causal: bool) -> Tensor:
    """The same in plain operators, for any T: in an exported graph and under autocast."""
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
