"""The target's own content vector as a plain feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from contracts.errors import InvalidInput
from training.models.view import ContentOutput, View


@dataclass(frozen=True, kw_only=True)
class TargetVectorConfig:
    """projection: width to which each unit vector is projected, None = as it is."""

    modalities: tuple[str, ...] = ("fused",)
    projection: int | None = None

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise InvalidInput("target_vector.modalities", self.modalities, "must name different modalities")
        if self.projection is not None and self.projection < 1:
            raise InvalidInput("target_vector.projection", self.projection, "must be at least 1")


class TargetVector(nn.Module):
    """View -> features (B, N, width): the candidate's unit vectors, zero where missing."""

    width: int

    def __init__(self, config: TargetVectorConfig, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.width = sum(config.projection or dims[name] for name in config.modalities)
        self.projections = nn.ModuleList(
            nn.Linear(dims[name], config.projection, bias=False) if config.projection else nn.Identity()
            for name in config.modalities
        )

    def forward(self, view: View) -> ContentOutput:
        parts = []
        for name, projection in zip(self.config.modalities, self.projections, strict=True):
            compared = view.content[name]
            parts.append(projection(compared.candidate_codes * compared.candidate_inv_norm.unsqueeze(2)))
        return ContentOutput(torch.cat(parts, dim=2), None)
