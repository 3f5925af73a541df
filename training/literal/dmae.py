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
            x = self.mieu[m](similarity_score(content.cosine, self.calibration[m]), view.ages)
            tokens.append(self.intra[m](x, content.mask) if self.fused else x)
            masks.append(content.mask)
        means = [weighted_sum(mean_weights(mask), x) for x, mask in zip(tokens, masks, strict=True)]  # (7)
        if not self.fused:
            return torch.cat(means, dim=2)
        others = reversed(means)  # two modalities: each under the other's context
        return torch.cat(
            [cross(*x) for cross, *x in zip(self.cross, others, tokens, masks, strict=True)], dim=2
        )
