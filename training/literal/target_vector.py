"""The candidate's own content vectors as features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.literal.view import LiteralView
from training.models.target_vector import TargetVector


class LiteralTargetVector(nn.Module):
    """View -> (B, N, width): the candidate's unit vectors, projected where configured."""

    def __init__(self, trained: TargetVector) -> None:
        super().__init__()
        self.modalities = trained.config.modalities
        self.projections = trained.projections

    def forward(self, view: LiteralView) -> Tensor:
        vectors = [view.content[name].candidates for name in self.modalities]
        return torch.cat([p(v) for p, v in zip(self.projections, vectors, strict=True)], dim=2)
