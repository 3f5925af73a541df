"""A search's own interest: how close each candidate's content is to what was searched for (M20)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from contracts.errors import InvalidInput
from training.models.view import ContentOutput, View


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """modalities: of the space; a query may have any of them, or none where nothing was searched for."""

    modalities: tuple[str, ...] = ("fused",)

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise InvalidInput("query.modalities", self.modalities, "must name different modalities")


class QuerySimilarity(nn.Module):
    """View -> features (B, N, 2 modalities): the cosine, 0 without one, and whether there is one."""

    width: int

    def __init__(self, config: QueryConfig) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * len(config.modalities)

    def forward(self, view: View) -> ContentOutput:
        return ContentOutput(torch.cat([view.query[name] for name in self.config.modalities], dim=2), None)
