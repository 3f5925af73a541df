"""SimTier (Sheng et al. 2024): how many behaviours fall in each tier of similarity to the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from contracts.errors import InvalidInput
from training.models.layers import table
from training.models.similarity import histogram, unit_interval
from training.models.view import ContentOutput, View


@dataclass(frozen=True, kw_only=True)
class SimTierConfig:
    """windows: 1 counts the whole history; more count each recency window of ages on its own."""

    modalities: tuple[str, ...] = ("text", "image")
    tiers: int = 20
    dim: int = 16
    windows: int = 1

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise InvalidInput("simtier.modalities", self.modalities, "must name different modalities")
        for name in ("tiers", "dim", "windows"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"simtier.{name}", getattr(self, name), "must be at least 1")


class SimTier(nn.Module):
    """View -> features (B, N, modalities * windows * dim): sum over tiers of log1p(count) * embedding."""

    width: int

    def __init__(self, config: SimTierConfig, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        self.width = len(config.modalities) * config.windows * config.dim
        self.tiers = nn.ParameterList(
            table(config.windows * config.tiers, config.dim, 0.1) for _ in config.modalities
        )

    def forward(self, view: View) -> ContentOutput:
        config, parts = self.config, []
        for name, embedding in zip(config.modalities, self.tiers, strict=True):
            compared = view.content[name]
            b, n = compared.cosine.shape[:2]
            counts = histogram(
                unit_interval(compared.cosine),
                compared.mask,
                view.ages,
                intervals=config.tiers,
                regions=config.windows,
                history_length=self.history_length,
            ).view(b, n, config.windows, 1, config.tiers)
            tiers = embedding.view(config.windows, config.tiers, config.dim)
            parts.append(torch.matmul(torch.log1p(counts), tiers).reshape(b, n, config.windows * config.dim))
        return ContentOutput(torch.cat(parts, dim=2), None)
