"""MIEU, DMAE's Multimodal Interest Encoding Unit: similarity and age -> an interest vector (eq 1 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.dense import dense
from training.models.layers import table


class Mieu(nn.Module):
    """r: (B, N, T) in [0, 1], ages: (T,) -> interest vectors (B, N, T, d), one modality.

    r^d  = (w r + b) Bucket[floor(r (N_B - 1))]                                (1), (2), D3
    r^sc = (sin(s r / base^(2i/d)), cos(s r / base^(2i/d)), ...), i < d/2      (3), D4; s = 1 is the letter
    out  = ReLU(W_2 (ReLU(W_1 (r^d ⊕ r^sc) + b_1) ⊕ PE_age) + b_2)             (4), D5

    W_1 and W_2 are applied by halves, each to its side of ⊕: the bucket half to the N_B embeddings instead
    of every token, the position half to T ages. `similarity_embedding=False` is the variant w/o MIEU-se: the
    plain bucket embedding feeds W_1, without scaling and sines.
    """

    omega: Tensor

    def __init__(
        self,
        dim: int,
        buckets: int,
        base: float,
        sc_scale: float,
        position: nn.Parameter,
        *,
        similarity_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.similarity_embedding = similarity_embedding
        self.buckets = table(buckets, dim, 0.1)
        self.position = position  # (T_max, d), by age
        self.w1 = nn.Linear(2 * dim if similarity_embedding else dim, dim)
        self.w2 = nn.Linear(2 * dim, dim)
        if similarity_embedding:
            self.scale = nn.Parameter(torch.ones(()))
            self.shift = nn.Parameter(torch.zeros(()))
            exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
            self.register_buffer("omega", (sc_scale * base**-exponents).float(), persistent=False)

    def forward(self, r: Tensor, ages: Tensor) -> Tensor:
        b, n, t = r.shape
        d = self.w2.out_features
        flat = r.reshape(-1)
        last = self.buckets.shape[0] - 1
        bucket = torch.floor(flat * last).clamp(0, last).int()
        if self.similarity_embedding:
            hidden = self._embed(flat, bucket).relu_()
        else:
            hidden = F.embedding(bucket, torch.relu(self.w1(self.buckets)))
        left, right = self.w2.weight[:, :d], self.w2.weight[:, d:]
        by_age = F.linear(F.embedding(ages, self.position), right, self.w2.bias)  # (T, d)
        return (dense(hidden, left).view(b, n, t, d) + by_age).relu_()

    def _embed(self, r: Tensor, bucket: Tensor) -> Tensor:
        """W_1 (r^d ⊕ r^sc) + b_1: (P,) -> (P, d)."""
        d = self.w1.out_features
        by_bucket = F.linear(self.buckets, self.w1.weight[:, :d])  # (N_B, d)
        angle = r.unsqueeze(1) * self.omega
        waves = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)  # the paper's pairs, all sines first
        weight = torch.cat([self.w1.weight[:, d::2], self.w1.weight[:, d + 1 :: 2]], dim=1)
        scaled = (self.scale * r + self.shift).unsqueeze(1)
        return torch.addcmul(dense(waves, weight, self.w1.bias), F.embedding(bucket, by_bucket), scaled)
