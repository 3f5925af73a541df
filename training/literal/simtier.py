"""SimTier to the letter: behaviours counted by tier, one comparison per behaviour and tier."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.literal.similarity import similarity_score
from training.literal.view import LiteralView
from training.models.simtier import SimTier


class LiteralSimTier(nn.Module):
    """View -> (B, N, modalities * windows * dim): per recency window, sum of log1p(count) * embedding."""

    def __init__(self, trained: SimTier) -> None:
        super().__init__()
        self.config, self.history_length = trained.config, trained.history_length
        self.tiers = trained.tiers

    def forward(self, view: LiteralView) -> Tensor:
        config, parts = self.config, []
        tiers = torch.arange(config.tiers, device=view.ages.device)
        window = torch.div(view.ages * config.windows, self.history_length, rounding_mode="floor")
        for name, embedding in zip(config.modalities, self.tiers, strict=True):
            content = view.content[name]
            r = similarity_score(content.cosine)
            tier = (torch.ceil(r * config.tiers) - 1).clamp(0, config.tiers - 1).long()  # ((j-1)/n, j/n]
            of_tier = (tier.unsqueeze(3) == tiers) & content.mask.unsqueeze(3)  # (B, N, T, tiers)
            for w, rows in enumerate(torch.split(cast(Tensor, embedding), config.tiers)):
                counts = (of_tier & (window == w).unsqueeze(1)).sum(2).float()
                parts.append(torch.log1p(counts) @ rows)
        return torch.cat(parts, dim=2)
