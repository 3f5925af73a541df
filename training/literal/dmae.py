"""DMAE to the letter (section 4) without IDDU, which only training has."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.literal.mieu import LiteralMieu
from training.literal.mifu import LiteralCrossModal, LiteralIntraModal, weighted_sum
from training.literal.similarity import similarity_score
from training.literal.view import LiteralView
from training.models.dmae import Dmae
from training.models.layers import mean_weights
from training.models.mieu import Mieu
from training.models.mifu import CrossModal, IntraModal


class LiteralDmae(nn.Module):
    """View -> r_*^m1 ⊕ r_*^m2: (B, N, 2 d)."""

    def __init__(self, trained: Dmae) -> None:
        super().__init__()
        self.modalities = trained.config.modalities
        self.intervals = trained.config.intervals
        self.regions = 1 if trained.config.without_mieu_t else trained.config.regions
        self.history_length = trained.history_length
        self.calibration = trained.calibration
        self.mieu = nn.ModuleList(LiteralMieu(cast(Mieu, m)) for m in trained.mieu)
        self.fused = not trained.config.without_mifu
        if self.fused:
            self.intra = nn.ModuleList(LiteralIntraModal(cast(IntraModal, m)) for m in trained.intra)
            self.cross = nn.ModuleList(LiteralCrossModal(cast(CrossModal, m)) for m in trained.cross)

    def forward(self, view: LiteralView) -> Tensor:
        tokens, masks = [], []
        for m, name in enumerate(self.modalities):
            content = view.content[name]
            r = similarity_score(content.cosine, self.calibration[m])
            view.note(f"distribution.{name}", self._distribution(r, content.mask, view.ages))
            x = self.mieu[m](r, view.ages)
            tokens.append(self.intra[m](x, content.mask) if self.fused else x)
            masks.append(content.mask)
        means = [weighted_sum(mean_weights(mask), x) for x, mask in zip(tokens, masks, strict=True)]  # (7)
        if not self.fused:
            return torch.cat(means, dim=2)
        others = reversed(means)  # two modalities: each under the other's context
        interests = []
        for name, cross, *x in zip(self.modalities, self.cross, others, tokens, masks, strict=True):
            view.note(f"attention.{name}", cast(LiteralCrossModal, cross).attention(*x))
            interests.append(cross(*x))
        return torch.cat(interests, dim=2)

    def _distribution(self, r: Tensor, mask: Tensor, ages: Tensor) -> Tensor:
        """Figure 3, eq 10: (B, N, l, n), the share of the behaviours that count in each region of age, newest
        first, and interval of similarity; nothing of the decoder."""
        interval = (torch.ceil(r * self.intervals) - 1).clamp(0, self.intervals - 1)  # ((j-1)/n, j/n]
        of_interval = (interval.unsqueeze(3) == torch.arange(self.intervals)) & mask.unsqueeze(3)
        region = torch.div(ages * self.regions, self.history_length, rounding_mode="floor")
        of_region = region.unsqueeze(0) == torch.arange(self.regions).unsqueeze(1)  # (l, T)
        counts = of_region.float() @ of_interval.float()
        return counts / mask.sum(2).clamp(min=1).unsqueeze(2).unsqueeze(3)
