"""What a ranker is asked, what every interest module sees of it, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from training.models.similarity import Compared


class Requests(NamedTuple):
    """B requests over K item rows (contracts.features); None where the ranker does not read it."""

    candidates: Tensor  # (B, N) int32
    behaviours: Tensor  # (B, T) int32, newest last
    behaviour_mask: Tensor  # (B, T) bool
    gaps: Tensor | None = None  # (B, T) int32, contracts.features.gap_buckets
    context: Tensor | None = None  # (B, C) int32, rows of the users' and contexts' table
    context_values: Tensor | None = None  # (B, C) float32
    query_codes: Tensor | None = None  # (B, D) int8
    query_inv_norm: Tensor | None = None  # (B, M) float32, 0 = no such query vector
    draw_keys: Tensor | None = None  # (B, N) int64, training.draws: what a step draws for each candidate


class View(NamedTuple):
    """B requests, gathered: the behaviours' side holds one row per request, never one per candidate."""

    candidates: Tensor  # (B, N, d_v) item embeddings
    behaviours: Tensor  # (B, T, d_v) item embeddings, newest last
    behaviour_mask: Tensor  # (B, T) bool
    ages: Tensor  # (T,) int64, newest 0
    content: Mapping[str, Compared]  # by modality name
    gaps: Tensor | None = None  # (B, T) int32
    query: Mapping[str, Tensor] = {}  # by modality name: (B, N, 2) cosine of query and candidate, and whether
    draw_keys: Tensor | None = None  # (B, N) int64


class ContentOutput(NamedTuple):
    """features: (B, N, width); auxiliary: () a weighted loss to add in training, None where there is none."""

    features: Tensor
    auxiliary: Tensor | None


class ContentInterest(Protocol):
    """A content module: any set of them combines with any ID module."""

    width: int

    def __call__(self, view: View) -> ContentOutput: ...
