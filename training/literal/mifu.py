"""MIFU to the letter (DMAE eq 5 to 9): W_Q, W_K and W_V on every token, windows gathered by index."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.layers import masked_softmax
from training.models.mifu import CrossModal, IntraModal


class LiteralIntraModal(nn.Module):
    """Eq 5 and 6. tokens: (B, N, T, d); mask: (B, N, T) bool -> r̂ (B, N, T, d).

    Token i reads tokens i - radius to i + radius, up to i where causal. Rows of invalid tokens mean nothing.
    """

    def __init__(self, trained: IntraModal) -> None:
        super().__init__()
        self.radius, self.causal = trained.radius, trained.causal
        self.residual, self.norm = trained.residual, trained.norm
        self.w_q, self.w_k, self.w_v = trained.w_q, trained.w_k, trained.w_v

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        d = self.w_q.out_features
        index, inside = self._windows(tokens)
        readable = inside & _window(mask, index)  # (B, N, T, w)
        keys, values = _window(self.w_k(tokens), index), _window(self.w_v(tokens), index)  # (B, N, T, w, d)
        scores = (keys @ self.w_q(tokens).unsqueeze(4)).squeeze(4) / d**0.5  # (B, N, T, w)
        out = (masked_softmax(scores, readable).unsqueeze(3) @ values).squeeze(3)
        if self.residual:
            out = tokens + out
        return out if self.norm is None else self.norm(out)

    def _windows(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Positions that each of T tokens reads, clipped to the sequence, and which were inside: (T, w)."""
        length = tokens.shape[2]
        newest = 0 if self.causal else self.radius
        offset = torch.arange(-self.radius, newest + 1, device=tokens.device)
        index = torch.arange(length, device=tokens.device).unsqueeze(1) + offset
        return index.clamp(min=0).clamp(max=length - 1), (index >= 0) & (index < length)


class LiteralCrossModal(nn.Module):
    """Eq 8 and 9. context: r̄ of the other modality (B, N, d); tokens: r̂ (B, N, T, d) -> r_* (B, N, d).

    Zero where no behaviour counts.
    """

    def __init__(self, trained: CrossModal) -> None:
        super().__init__()
        self.w_q, self.w_k, self.w_v = trained.w_q, trained.w_k, trained.w_v

    def forward(self, context: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return weighted_sum(self.attention(context, tokens, mask), self.w_v(tokens))

    def attention(self, context: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """The softmax of eq 8: (B, N, T), 0 outside the mask."""
        d = self.w_q.out_features
        query, keys = self.w_q(context), self.w_k(tokens)
        return masked_softmax((keys @ query.unsqueeze(3)).squeeze(3) / d**0.5, mask)


def weighted_sum(weights: Tensor, tokens: Tensor) -> Tensor:
    """sum_j weights_j tokens_j: (B, N, T), (B, N, T, d) -> (B, N, d)."""
    return (weights.unsqueeze(2) @ tokens).squeeze(2)


def _window(values: Tensor, index: Tensor) -> Tensor:
    """values: (B, N, T, ...), index: (T, w) -> (B, N, T, w, ...)."""
    read = values.index_select(2, index.reshape(-1))
    return read.view(*values.shape[:2], *index.shape, *values.shape[3:])
