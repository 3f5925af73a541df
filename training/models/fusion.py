"""The head of an encoder: tower features -> text, image and fused vectors of one dimension (MIM eq 3, 4).

Before any training the head is principal components: its cosines approximate the towers' own, since that
structure holds for items that no pair ever named. C-SFT then bends it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput


class TensorFusion(nn.Module):
    """MLP of the outer product [image; 1] x [text; 1] (TFN, MIM eq 3, 4), with a linear shortcut.

    The appended ones keep the terms of one modality alone, so a missing modality is a zero vector. The
    shortcut starts as those terms side by side, the hidden layer's output starts at zero.
    """

    def __init__(self, low: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.low = low
        cells = (low + 1) ** 2
        self.shortcut = nn.Linear(cells, dim, bias=False)
        self.wide = nn.Linear(cells, hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)
        self.start(1.0)

    @torch.no_grad()
    def start(self, image_weight: float) -> None:
        """Set the shortcut to [image_weight * image, text], as many leading terms of each as fit."""
        weight, kept = self.shortcut.weight, min(self.low, self.shortcut.out_features // 2)
        nn.init.zeros_(weight)
        term = torch.arange(kept)
        weight[term, term * (self.low + 1) + self.low] = image_weight  # image term times text's one
        weight[kept + term, self.low * (self.low + 1) + term] = 1.0  # image's one times text term

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """image, text: (K, low) float32, zero rows where missing -> (K, dim) float32."""
        one = torch.ones_like(image[:, :1])
        left, right = torch.cat([image, one], dim=1), torch.cat([text, one], dim=1)
        cells = (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1)
        hidden = self.dropout(F.gelu(self.wide(cells)))
        fused: Tensor = self.shortcut(cells) + self.narrow(hidden)
        return fused


class Projection(nn.Module):
    """Standardised features of one tower -> unit vectors (M3)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(features, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Set to the leading principal components of features: (K, d) float32, rows that are present."""
        if not len(features):
            return
        self.mean.copy_(features.mean(dim=0))
        centred = (features - self.mean).double()
        self.scale.copy_(centred.norm(dim=1).mean().clamp(min=1e-6))
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T  # (d, d), largest first
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        kept = (directions * largest.sign())[: self.linear.out_features]  # a sign of their own: reproducible
        nn.init.zeros_(self.linear.weight)
        self.linear.weight[: len(kept)] = kept.to(self.linear.weight.dtype)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """features: (K, d) float32, present: (K,) bool -> (K, dim) unit vectors, zero rows where absent."""
        there = present.unsqueeze(1)
        given = torch.where(there, features, self.mean)
        vectors = self.linear(self.dropout((given - self.mean) / self.scale))
        return F.normalize(torch.where(there, vectors, 0.0), dim=1)


class EncoderHead(nn.Module):
    """contracts.encoder_spec's head graph: projections P_txt and P_img to `dim`, TFN to `dim`.

    low: dimension of each modality inside the outer product (M4: the full product of two towers would
    be 269 M parameters).
    """

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        dim: int = 128,
        *,
        low: int = 64,
        hidden: int = 512,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise InvalidInput("dim", dim, "must be at least 2")
        low = min(low, dim)
        self.text = Projection(text_dim, dim, dropout)
        self.image = Projection(image_dim, dim, dropout)
        self.low_text = nn.Linear(dim, low, bias=False)
        self.low_image = nn.Linear(dim, low, bias=False)
        self.fusion = TensorFusion(low, hidden, dim, dropout)
        nn.init.eye_(self.low_text.weight)
        nn.init.eye_(self.low_image.weight)

    def start(self, text: Tensor, image: Tensor, image_weight: float) -> None:
        """Set to principal components of the features that are there: (K, d_text), (K', d_image)."""
        self.text.start(text)
        self.image.start(image)
        self.fusion.start(image_weight)

    def forward(
        self, text_features: Tensor, image_features: Tensor, has_text: Tensor, has_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(K, d_text), (K, d_image) float32, (K,), (K,) bool -> text, image, fused (K, dim) float32.

        Unit vectors; text and image are zero rows where missing. What lies in the features of a missing
        modality, NaN even, changes nothing.
        """
        text = self.text(text_features, has_text)
        image = self.image(image_features, has_image)
        fused = self.fusion(
            F.normalize(self.low_image(image), dim=1), F.normalize(self.low_text(text), dim=1)
        )
        some = (has_text | has_image).unsqueeze(1)
        return text, image, F.normalize(torch.where(some, fused, 0.0), dim=1)
