"""CiUBM, the content-interest-aware user behaviour model (MIM section 3.4, eq 7 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from contracts.errors import InvalidInput
from training.models.layers import masked_softmax
from training.models.similarity import Compared
from training.models.view import ContentOutput, View

Weighting = Literal["cosine", "cosine_mean", "relu", "softmax"]


@dataclass(frozen=True, kw_only=True)
class CiubmConfig:
    """weighting (M14): `cosine` is the paper's sum, `cosine_mean` divides it by the number of valid
    behaviours, `relu` is that mean with negative cosines at 0, `softmax` has a learned temperature.
    projection: width to which the content interest is projected, None = as it is (M16).
    """

    modality: str = "fused"
    content: bool = True
    fusion: bool = True
    weighting: Weighting = "cosine_mean"
    temperature: float = 0.1
    projection: int | None = None

    def __post_init__(self) -> None:
        if not (self.content or self.fusion):
            raise InvalidInput("ciubm", (self.content, self.fusion), "needs the content or the fusion module")
        if self.weighting not in get_args(Weighting):
            raise InvalidInput("ciubm.weighting", self.weighting, f"must be one of {get_args(Weighting)}")
        if not self.temperature > 0:
            raise InvalidInput("ciubm.temperature", self.temperature, "must be positive")
        if self.projection is not None and self.projection < 1:
            raise InvalidInput("ciubm.projection", self.projection, "must be at least 1")

    @property
    def modalities(self) -> tuple[str, ...]:
        return (self.modality,)


class Ciubm(nn.Module):
    """View -> features (B, N, width): h_B^MM ⊕ h_B^Fusion, as configured. The ranker has the ID module."""

    width: int

    def __init__(self, config: CiubmConfig, item_width: int, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        dim = dims[config.modality]
        content_width = 0
        if config.content:
            content_width = config.projection or dim
            self.projection = (
                nn.Identity() if config.projection is None else nn.Linear(dim, content_width, bias=False)
            )
        self.width = content_width + (item_width if config.fusion else 0)
        if config.weighting == "softmax":
            self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())

    def forward(self, view: View) -> ContentOutput:
        compared = view.content[self.config.modality]
        weights = self.weights(compared)
        parts = []
        if self.config.content:  # eq 7, h_i^MM the unit vector (M15)
            vectors = compared.behaviour_codes * compared.behaviour_inv_norm.unsqueeze(2)
            parts.append(self.projection(torch.matmul(weights, vectors)))
        if self.config.fusion:  # eq 8
            parts.append(torch.matmul(weights, view.behaviours))
        return ContentOutput(torch.cat(parts, dim=2), None)

    def weights(self, compared: Compared) -> Tensor:
        """alpha^MM: (B, N, T), 0 where the behaviour is padded or a vector is missing."""
        mask = compared.mask
        if self.config.weighting == "softmax":
            return masked_softmax(compared.cosine * torch.exp(-self.log_temperature), mask)
        cosine = torch.relu(compared.cosine) if self.config.weighting == "relu" else compared.cosine
        weights = cosine * mask
        if self.config.weighting == "cosine":
            return weights
        return weights / mask.sum(-1, keepdim=True).clamp(min=1)
