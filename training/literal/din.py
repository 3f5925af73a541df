"""The ID modules to the letter (MIM eq 1, DMAE eq 14): DIN on the whole concatenation, and the mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.literal.view import LiteralView
from training.models.id_interest import DinInterest
from training.models.layers import masked_softmax, mean_weights


class LiteralDin(nn.Module):
    """View -> sum_j MLP([q, k_j, q - k_j, q * k_j]) k_j: (B, N, d_v)."""

    def __init__(self, trained: DinInterest) -> None:
        super().__init__()
        self.softmax, self.position, self.gaps = trained.softmax, trained.position, trained.gaps
        self.first, self.rest = trained.first, trained.rest

    def forward(self, view: LiteralView) -> Tensor:
        keys = view.behaviours
        if self.position is not None:
            keys = keys + F.embedding(view.ages, self.position)
        if self.gaps is not None and view.gaps is not None:
            keys = keys + F.embedding(view.gaps, self.gaps)
        places = (-1, view.candidates.shape[1], keys.shape[1], -1)  # (B, N, T, d_v)
        q, k = view.candidates.unsqueeze(2).expand(places), keys.unsqueeze(1).expand(places)
        scores = self.rest(torch.relu(self.first(torch.cat([q, k, q - k, q * k], dim=3)))).squeeze(3)
        mask = view.behaviour_mask.unsqueeze(1)
        weights = masked_softmax(scores, mask) if self.softmax else scores * mask
        view.note("weights.id_interest", weights)
        return weights @ keys


class LiteralMean(nn.Module):
    """View -> the mean of the valid behaviours for every candidate: (B, N, d_v)."""

    def forward(self, view: LiteralView) -> Tensor:
        mean = mean_weights(view.behaviour_mask).unsqueeze(1) @ view.behaviours
        return mean.expand(-1, view.candidates.shape[1], -1)
