"""MIFU, DMAE's Multimodal Interest Fusion Unit: within each modality, then across both (eq 5 to 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.dense import dense
from training.models.layers import masked_softmax, pool
from training.models.window import window_attention


class Tokens(NamedTuple):
    """Interest vectors r̂_j = W raw_j of P = B * N pairs, never formed: W commutes with every weighted sum.

    raw: (P, T, d); weight: W (d, d), None = identity; mask: (P, T) bool, which behaviours count.
    """

    raw: Tensor
    weight: Tensor | None
    mask: Tensor

    def pool(self, weights: Tensor) -> Tensor:
        """sum_j weights_j r̂_j: weights (P, T) -> (P, d)."""
        pooled = pool(weights, self.raw)
        return pooled if self.weight is None else F.linear(pooled, self.weight)

    def scores(self, query: Tensor) -> Tensor:
        """query . r̂_j: query (P, d) -> (P, T)."""
        if self.weight is not None:
            query = torch.matmul(query, self.weight)
        return torch.bmm(self.raw, query.unsqueeze(2)).squeeze(2)


class IntraModal(nn.Module):
    """G^m of eq 5 and 6: one head of sliding-window attention. tokens (P, T, d), mask (P, T) -> r̂.

    The letter has no residual and no LayerNorm (D6); both are flags. Both directions unless causal, where a
    behaviour reads only itself and older ones. (e_i W_Q)(e_j W_K)^T = (e_i W_Q W_K^T) e_j^T and
    sum_j a_ij (e_j W_V) = (sum_j a_ij e_j) W_V: the window reads the tokens themselves, W_V waits in
    `Tokens`.
    """

    def __init__(self, dim: int, radius: int, *, residual: bool, layernorm: bool, causal: bool) -> None:
        super().__init__()
        self.radius = radius
        self.residual = residual
        self.causal = causal
        self.w_q = nn.Linear(dim, dim, bias=False)
        self.w_k = nn.Linear(dim, dim, bias=False)
        self.w_v = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim) if layernorm else None

    def forward(self, tokens: Tensor, mask: Tensor) -> Tokens:
        d = self.w_q.out_features
        queries = dense(tokens, torch.matmul(self.w_k.weight.t(), self.w_q.weight) * d**-0.5)
        read = window_attention(queries, tokens, mask, radius=self.radius, causal=self.causal)
        if not self.residual and self.norm is None:
            return Tokens(read, self.w_v.weight, mask)
        out = self.w_v(read)
        if self.residual:
            out = tokens + out
        return Tokens(out if self.norm is None else self.norm(out), None, mask)


class CrossModal(nn.Module):
    """Eq 8 and 9: the other modality's mean interest r̄ attends to this one's behaviours.

    context: (P, d), tokens r̂ -> (P, d), zero where no behaviour counts. By the same rewriting W_K and W_V are
    applied once per candidate instead of once per behaviour.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_q = nn.Linear(dim, dim, bias=False)
        self.w_k = nn.Linear(dim, dim, bias=False)
        self.w_v = nn.Linear(dim, dim, bias=False)

    def forward(self, context: Tensor, tokens: Tokens) -> Tensor:
        d = self.w_q.out_features
        query = torch.matmul(self.w_q(context), self.w_k.weight) * d**-0.5
        out: Tensor = self.w_v(tokens.pool(masked_softmax(tokens.scores(query), tokens.mask)))
        return out
