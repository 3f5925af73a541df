"""Mean and maximum of similarity per recency window, each over all behaviours and a mask of the window."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from training.literal.similarity import similarity_score
from training.literal.view import LiteralView
from training.models.recency import RecencySimilarity

_NEVER = 1 << 30  # older than any behaviour


class LiteralRecency(nn.Module):
    """View -> (B, N, modalities * windows * 2), 0 where a window has no valid behaviour."""

    def __init__(self, trained: RecencySimilarity) -> None:
        super().__init__()
        self.config = trained.config

    def forward(self, view: LiteralView) -> Tensor:
        parts = []
        for name in self.config.modalities:
            content = view.content[name]
            r = (similarity_score(content.cosine) - 0.5) * 4.0
            for start, end in pairwise((*self.config.starts, _NEVER)):
                valid = content.mask & (view.ages >= start) & (view.ages < end)
                count = valid.sum(2)
                largest = torch.where(valid, r, -torch.inf).amax(2)
                parts.append((r * valid).sum(2) / count.clamp(min=1))
                parts.append(torch.where(count > 0, largest, 0.0))
        return torch.stack(parts, dim=2)
