"""What the literal units see: embeddings of candidates and behaviours, and their content vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class LiteralContent(NamedTuple):
    """One modality. Vectors are the stored unit vectors, zero where missing."""

    candidates: Tensor  # (B, N, d_m) float32
    behaviours: Tensor  # (B, T, d_m) float32
    cosine: Tensor  # (B, N, T) float32, 0 where either is missing
    mask: Tensor  # (B, N, T) bool: a real behaviour, and both vectors are there


class LiteralQuery(NamedTuple):
    """One modality of what was searched for, beside the candidates."""

    cosine: Tensor  # (B, N) float32, 0 where either is missing
    mask: Tensor  # (B, N) bool: both are there


class LiteralView(NamedTuple):
    """B requests, gathered."""

    candidates: Tensor  # (B, N, d_v) float32 item embeddings
    behaviours: Tensor  # (B, T, d_v) float32 item embeddings, newest last
    behaviour_mask: Tensor  # (B, T) bool
    ages: Tensor  # (T,) int64, newest 0: T - j of the papers
    content: Mapping[str, LiteralContent]  # by modality name
    gaps: Tensor | None  # (B, T) int32, interval of the time since the behaviour
    query: Mapping[str, LiteralQuery]  # by modality name
    notes: dict[str, Tensor] | None = None  # what units note of how they came to their result, by name

    def note(self, name: str, value: Tensor) -> None:
        """For explanations; nothing where none are wanted."""
        if self.notes is not None:
            self.notes[name] = value
