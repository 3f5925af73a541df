"""MIEU to the letter (DMAE eq 1 to 4): every token through both linear layers whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.mieu import Mieu


class LiteralMieu(nn.Module):
    """r: (B, N, T) in [0, 1], ages: (T,) int64 -> interest vectors (B, N, T, d), one modality."""

    omega: Tensor

    def __init__(self, trained: Mieu) -> None:
        super().__init__()
        self.similarity_embedding = trained.similarity_embedding
        self.buckets = trained.buckets  # (N_B, d)
        self.position = trained.position  # (T_max, d)
        self.w1, self.w2 = trained.w1, trained.w2  # 2 d -> d each
        if self.similarity_embedding:
            self.w, self.b = trained.scale, trained.shift
            self.register_buffer("omega", trained.omega, persistent=False)  # s / base^(2i/d), i < d/2

    def forward(self, r: Tensor, ages: Tensor) -> Tensor:
        last = self.buckets.shape[0] - 1
        bucket = torch.floor(r * last).clamp(0, last).int()
        similarity = F.embedding(bucket, self.buckets)
        if self.similarity_embedding:
            scaled = self.w * r + self.b  # (1)
            discrete = scaled.unsqueeze(3) * similarity  # (2)
            similarity = torch.cat([discrete, self._waves(r)], dim=3)  # r^d ⊕ r^sc, (B, N, T, 2 d)
        hidden = torch.relu(self.w1(similarity))
        position = F.embedding(ages, self.position).expand_as(hidden)  # PE_{T-j}
        return torch.relu(self.w2(torch.cat([hidden, position], dim=3)))  # (4)

    def _waves(self, r: Tensor) -> Tensor:
        """(3): sin and cos in turn, (B, N, T, d)."""
        angle = r.unsqueeze(3) * self.omega
        return torch.stack([torch.sin(angle), torch.cos(angle)], dim=4).flatten(3)
