"""Similarity per recency window: how close the target is to what a user liked just now, lately, long ago."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from contracts.errors import InvalidInput
from training.models.similarity import unit_interval
from training.models.view import ContentOutput, View

_NEVER = 1 << 30  # older than any behaviour


@dataclass(frozen=True, kw_only=True)
class RecencySimilarityConfig:
    """starts: the youngest age of each window, ascending from 0; the last window has no end.

    Windows widen with age: what was liked last says most of what is liked next.
    """

    modalities: tuple[str, ...] = ("fused",)
    starts: tuple[int, ...] = (0, 1, 3, 7, 15, 31)

    def __post_init__(self) -> None:
        where = "recency_similarity"
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise InvalidInput(f"{where}.modalities", self.modalities, "must name different modalities")
        if not self.starts or self.starts[0] != 0 or list(self.starts) != sorted(set(self.starts)):
            raise InvalidInput(f"{where}.starts", self.starts, "must ascend from 0")


class RecencySimilarity(nn.Module):
    """View -> features (B, N, modalities * windows * 2): mean and maximum of r per window, 0 where empty.

    r = (cos + 1) / 2, standardised by constants that fit raw cosines of content: (r - 1/2) * 4.
    """

    width: int

    def __init__(self, config: RecencySimilarityConfig) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * len(config.modalities) * len(config.starts)

    def forward(self, view: View) -> ContentOutput:
        parts = []
        for name in self.config.modalities:
            compared = view.content[name]
            r = (unit_interval(compared.cosine) - 0.5) * 4.0
            if torch.compiler.is_compiling():  # slices would keep the traced T, which is free in a graph
                for start, stop in pairwise((*self.config.starts, _NEVER)):
                    inside = (view.ages >= start) & (view.ages < stop)
                    parts += _statistics(r, compared.mask & inside)
                continue
            for first, end in windows(self.config.starts, r.shape[2]):
                if first == end:
                    parts += [r.new_zeros(r.shape[:2])] * 2
                    continue
                parts += _statistics(r[:, :, first:end], compared.mask[:, :, first:end])
        return ContentOutput(torch.stack(parts, dim=2), None)


def windows(starts: tuple[int, ...], length: int) -> list[tuple[int, int]]:
    """Per window the slice [first, end) of T behaviours, newest last: age a is at T - 1 - a."""
    ends = [max(0, length - age) for age in starts]
    return [(end_of_next, end) for end, end_of_next in zip(ends, [*ends[1:], 0], strict=True)]


def _statistics(r: Tensor, mask: Tensor) -> list[Tensor]:
    """r, mask: (B, N, W) -> mean and maximum (B, N), 0 where nothing is valid."""
    count = mask.sum(2)
    mean = (r * mask).sum(2) / count.clamp(min=1)
    largest = torch.where(mask, r, -4.0).amax(2)
    return [mean, torch.where(count > 0, largest, 0.0)]
