"""DIN's attention unit, forward and backward written out, in blocks that stay in cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.models.dense import masked_, product

_BLOCK = 3_072  # (candidate, behaviour) pairs; their hidden vectors fit a second-level cache


def unit_scores(
    queries: Tensor, keys: Tensor, bias: Tensor, w1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor
) -> Tensor:
    """w3 ReLU(W2 ReLU(W1 (k ⊕ q * k) + bias_q) + b2) + b3.

    queries: (B, N, d); keys: (B, T, d); bias: (B, N, h); w1: (h, 2 d); w2: (h2, h); b2: (h2,); w3: (1, h2);
    b3: (1,) -> (B, N, T), all of one dtype.
    """
    scores: Tensor = _UnitScores.apply(  # type: ignore[no-untyped-call]
        queries, keys, bias, w1, w2, b2, w3, b3
    )
    return scores


class _UnitScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        queries, keys, bias, w1, w2, b2, w3, b3 = inputs
        b, n, d = queries.shape
        t, h = keys.shape[1], len(w1)
        out = keys.new_empty(b * n * t, 1)
        ctx.step, ctx.hidden = max(1, _BLOCK // (t * n)), []
        for at in range(0, b, ctx.step):
            part = slice(at, at + ctx.step)
            k, q = keys[part].unsqueeze(1), queries[part].unsqueeze(2)
            pairs = keys.new_empty(len(k), n, t, 2 * d)
            pairs[..., :d] = k
            torch.mul(k, q, out=pairs[..., d:])
            z = pairs.view(-1, 2 * d)
            h1 = product(z, w1, None)
            h1.view(-1, t, h).add_(bias[part].view(-1, 1, h)).relu_()
            h2 = product(h1, w2, b2, relu=True)
            torch.addmm(b3, h2, w3.t(), out=out[at * t * n : (at + ctx.step) * t * n])
            ctx.hidden.append((z, h1, h2))
        ctx.save_for_backward(queries, keys, w1, w2, w3)
        return out.view(b, n, t)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        queries, keys, w1, w2, w3 = ctx.saved_tensors
        b, n, t = gradient.shape
        d, h = keys.shape[2], len(w1)
        g = gradient
        back1, back2 = w1.t().contiguous(), w2.t().contiguous()
        ones = w2.new_ones(1, min(ctx.step, b) * t * n)
        d_queries, d_keys, d_bias = torch.empty_like(queries), torch.empty_like(keys), g.new_empty(b, n, h)
        d_w1, d_w2, d_w3 = (torch.zeros_like(w) for w in (w1, w2, w3))
        d_b2 = d_w2.new_zeros(1, len(w2))
        for i, (z, h1, h2) in enumerate(ctx.hidden):
            part = slice(i * ctx.step, (i + 1) * ctx.step)
            g3 = g[part].reshape(-1, 1)
            g2 = masked_(torch.mm(g3, w3), h2)
            d_w3 += torch.mm(g3.t(), h2)
            d_w2 += torch.mm(g2.t(), h1)
            d_b2 += torch.mm(ones[:, : len(g2)], g2)
            g1 = masked_(product(g2, back2, None), h1)
            d_w1 += torch.mm(g1.t(), z)
            torch.sum(g1.view(-1, n, t, h), dim=2, out=d_bias[part])
            gz = product(g1, back1, None).view(-1, n, t, 2 * d)
            k, q = keys[part].unsqueeze(1), queries[part].unsqueeze(2)
            torch.sum(gz[..., d:] * k, dim=2, out=d_queries[part])
            torch.sum(torch.addcmul(gz[..., :d], gz[..., d:], q), dim=1, out=d_keys[part])
        return d_queries, d_keys, d_bias, d_w1, d_w2, d_b2.squeeze(0), d_w3, gradient.sum().reshape(1)
