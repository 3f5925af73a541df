"""What every interest module sees of a batch, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from training.models.similarity import Compared


class View(NamedTuple):
    """B requests, gathered: the behaviours' side holds one row per request, never one per candidate."""

    candidates: Tensor  # (B, N, d_v) item embeddings
    behaviours: Tensor  # (B, T, d_v) item embeddings, newest last
    behaviour_mask: Tensor  # (B, T) bool
    ages: Tensor  # (T,) int64, newest 0
    content: Mapping[str, Compared]  # by modality name


class ContentOutput(NamedTuple):
    """features: (B, N, width); auxiliary: () a weighted loss to add in training, None where there is none."""

    features: Tensor
    auxiliary: Tensor | None


class ContentInterest(Protocol):
    """A content module: any set of them combines with any ID module."""

    width: int

    def __call__(self, view: View) -> ContentOutput: ...
