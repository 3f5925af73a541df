"""The four rankers of the papers' comparison, with their numbers in one place each.

All four read the items' attribute columns. Content modules stand on DIN with position, so that what they add
is not its position embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from training.models.ciubm import CiubmConfig, Weighting
from training.models.columns import AttributeTable
from training.models.config import ContentConfig, RankerConfig
from training.models.dmae import DmaeConfig
from training.models.id_interest import IdInterestKind
from training.models.similarity import Modality


class Build(Protocol):
    """A ranker's configuration over what the data decides."""

    def __call__(
        self, modalities: Sequence[Modality], attributes: AttributeTable, *, id_dim: int, history_length: int
    ) -> RankerConfig: ...


def din(
    modalities: Sequence[Modality], attributes: AttributeTable, *, id_dim: int = 16, history_length: int = 64
) -> RankerConfig:
    """DIN: ID vectors and attributes only."""
    return _ranker(modalities, attributes, id_dim, history_length, "din", ())


def din_position(
    modalities: Sequence[Modality], attributes: AttributeTable, *, id_dim: int = 16, history_length: int = 64
) -> RankerConfig:
    """DIN with a learned vector per behaviour age."""
    return _ranker(modalities, attributes, id_dim, history_length, "din_position", ())


def ciubm(
    modalities: Sequence[Modality],
    attributes: AttributeTable,
    *,
    id_dim: int = 16,
    history_length: int = 64,
    weighting: Weighting = "cosine_mean",
) -> RankerConfig:
    """MIM's CiUBM: the ID module is DIN with position, content and fusion read the fused vector."""
    content = CiubmConfig(modality="fused", weighting=weighting)
    return _ranker(modalities, attributes, id_dim, history_length, "din_position", (content,))


def dmae(
    modalities: Sequence[Modality],
    attributes: AttributeTable,
    *,
    id_dim: int = 16,
    history_length: int = 64,
    content: DmaeConfig | None = None,
) -> RankerConfig:
    """DMAE over DIN with position, reading text and image; `content` for its ablations."""
    chosen = content or DmaeConfig(
        modalities=("text", "image"),
        dim=32,
        buckets=50,
        sc_scale=50.0,
        window_radius=5,
        intervals=10,
        regions=10,
        mask_ratio=0.3,
        decoder="gkl",
        lambda_dec=0.7,
    )
    return _ranker(modalities, attributes, id_dim, history_length, "din_position", (chosen,))


def _ranker(
    modalities: Sequence[Modality],
    attributes: AttributeTable,
    id_dim: int,
    history_length: int,
    id_interest: IdInterestKind,
    content: tuple[ContentConfig, ...],
) -> RankerConfig:
    return RankerConfig(
        modalities=tuple(modalities),
        attributes=attributes,
        id_dim=id_dim,
        attribute_dim=8,
        history_length=history_length,
        id_interest=id_interest,
        din_hidden=(80, 40),
        content=content,
        hidden=(200, 80),
    )
