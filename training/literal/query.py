"""How close each candidate is to what was searched for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.literal.view import LiteralView
from training.models.query import QuerySimilarity


class LiteralQuerySimilarity(nn.Module):
    """View -> (B, N, 2 modalities): the cosine, 0 without one, and whether there is one."""

    def __init__(self, trained: QuerySimilarity) -> None:
        super().__init__()
        self.modalities = trained.config.modalities

    def forward(self, view: LiteralView) -> Tensor:
        parts = []
        for name in self.modalities:
            query = view.query[name]
            parts += [query.cosine, query.mask.float()]
        return torch.stack(parts, dim=2)
