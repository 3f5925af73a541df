"""CiUBM to the letter (MIM eq 7 to 9): a weight per candidate and behaviour, sums per candidate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.literal.view import LiteralContent, LiteralView
from training.models.ciubm import Ciubm
from training.models.layers import masked_softmax


class LiteralCiubm(nn.Module):
    """View -> h_B^MM ⊕ h_B^Fusion, as configured: (B, N, width)."""

    def __init__(self, trained: Ciubm) -> None:
        super().__init__()
        self.config = trained.config
        if self.config.content:
            self.projection = trained.projection
        if self.config.weighting == "softmax":
            self.log_temperature = trained.log_temperature

    def forward(self, view: LiteralView) -> Tensor:
        content = view.content[self.config.modality]
        alpha = self._alpha(content)
        view.note(f"weights.ciubm.{self.config.modality}", alpha)
        parts = []
        if self.config.content:
            parts.append(self.projection(alpha @ content.behaviours))  # (7)
        if self.config.fusion:
            parts.append(alpha @ view.behaviours)  # (8)
        return torch.cat(parts, dim=2)  # (9), beside the ranker's ID interest

    def _alpha(self, content: LiteralContent) -> Tensor:
        """cos(h_t, h_i) and its settled variants (CiubmConfig.weighting): (B, N, T), 0 outside the mask."""
        cosine, mask = content.cosine, content.mask
        match self.config.weighting:
            case "softmax":
                return masked_softmax(cosine / torch.exp(self.log_temperature), mask)
            case "cosine":
                return cosine * mask
            case "relu":
                cosine = torch.relu(cosine)
        return cosine * mask / mask.sum(-1, keepdim=True).clamp(min=1)
