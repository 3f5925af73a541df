"""Towers: a transformer's token states as one vector per text, and a small ConvNeXt for pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput

_STEM_STRIDE = 4
_LAYER_SCALE = 0.1  # of a residual branch at the start: the net is shallow, so not the paper's 1e-6


class MeanPooled(nn.Module):
    """A transformer whose token states are averaged over the tokens that count, then normalised."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: (K, L) int64 -> (K, d_text) float32 unit vectors."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.to(states.dtype).unsqueeze(-1)
        mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return F.normalize(mean, dim=-1)


class ConvNextBlock(nn.Module):
    """x + scale * MLP(norm(depthwise 7x7(x))) (ConvNeXt, arXiv 2201.03545, section 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """(K, width, H, W) -> the same shape."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.scale
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (K, width, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(K, width, H, W) -> the same shape."""
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed


class ConvNext(nn.Module):
    """A ConvNeXt of 0.4 M parameters as it stands: 1 ms a picture of 64 x 64 to train on two cores."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128), depths: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__()
        if not widths or len(widths) != len(depths):
            raise InvalidInput("widths", (tuple(widths), tuple(depths)), "needs one depth per width")
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], _STEM_STRIDE, _STEM_STRIDE),
            ChannelNorm(widths[0]),
        ]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers += [ChannelNorm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)]
            layers += [ConvNextBlock(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1])
        self.dim = widths[-1]

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (K, 3, H, W) float32 -> features (K, widths[-1]) float32."""
        features: Tensor = self.norm(self.layers(pixels).mean(dim=(2, 3)))
        return features
