"""MIFU, DMAE's Multimodal Interest Fusion Unit: within each modality, then across both (eq 5 to 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.layers import masked_softmax, pool
from training.models.window import window_attention


class IntraModal(nn.Module):
    """G^m of eq 5 and 6: one head of sliding-window attention. tokens (P, T, d), mask (P, T) -> (P, T, d).

    The letter has no residual and no LayerNorm (D6); both are flags. Both directions unless causal, where a
    behaviour reads only itself and older ones. (e_i W_Q)(e_j W_K)^T = (e_i W_Q W_K^T) e_j^T and
    sum_j a_ij (e_j W_V) = (sum_j a_ij e_j) W_V: the window reads the tokens themselves, one gather instead of two.
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

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        d = self.w_q.out_features
        queries = F.linear(tokens, torch.matmul(self.w_k.weight.t(), self.w_q.weight) * d**-0.5)
        out = window_attention(queries, tokens, mask, radius=self.radius, causal=self.causal)
        out = self.w_v(out)
        if self.residual:
            out = tokens + out
        return out if self.norm is None else self.norm(out)


class CrossModal(nn.Module):
    """Eq 8 and 9: the other modality's mean interest r̄ attends to this one's behaviours.

    context: (P, d), tokens r̂: (P, T, d), mask: (P, T) -> (P, d), zero where nothing is valid.
    By the same rewriting W_K and W_V are applied once per candidate instead of once per behaviour.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_q = nn.Linear(dim, dim, bias=False)
        self.w_k = nn.Linear(dim, dim, bias=False)
        self.w_v = nn.Linear(dim, dim, bias=False)

    def forward(self, context: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        d = self.w_q.out_features
        query = torch.matmul(self.w_q(context), self.w_k.weight) * d**-0.5
        scores = torch.bmm(tokens, query.unsqueeze(2)).squeeze(2)
        out: Tensor = self.w_v(pool(masked_softmax(scores, mask), tokens))
        return out
