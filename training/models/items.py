"""From item rows to item embeddings, once per row: v = ID vector ⊕ attributes ⊕ projected content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from contracts.errors import InvalidInput
from training.models.columns import AttributeTable, ColumnEmbedding
from training.models.similarity import Modality


class ItemRows(NamedTuple):
    """K items; row 0 is the padding row, all zero."""

    codes: Tensor  # (K, D) int8, modalities side by side
    inv_norm: Tensor  # (K, M) float32, 0 = modality missing
    attributes: Tensor  # (K, A) int32, row of the attribute table, 0 = absent
    id_vectors: Tensor  # (K, d_id) float32
    id_known: Tensor  # (K,) bool, False = the out-of-vocabulary vector is used
    id_evidence: Tensor | None = None  # (K,) float32, log1p of the training examples behind the ID vector
    attribute_values: Tensor | None = None  # (K, A) float32, where a number is scaled


@dataclass(frozen=True, kw_only=True)
class ItemContentConfig:
    """Content in every item embedding, of target and history alike: each unit vector projected to `dim`."""

    modalities: tuple[str, ...] = ("fused",)
    dim: int = 16

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise InvalidInput("item_content.modalities", self.modalities, "must name different modalities")
        if self.dim < 1:
            raise InvalidInput("item_content.dim", self.dim, "must be at least 1")


class ItemEmbedding(nn.Module):
    """ItemRows -> v: (K, d_v) float32, d_v = d_id + fields * attribute_dim + modalities * content dim.

    The out-of-vocabulary vector is learned: ID dropout is what trains it. With `id_trust` an ID vector counts
    in proportion to its evidence: of n training examples, v_id = (n x + n_0 o) / (n + n_0) with the item's x,
    the out-of-vocabulary o and a learned n_0.
    """

    width: int

    def __init__(
        self,
        attributes: AttributeTable,
        id_dim: int,
        attribute_dim: int,
        *,
        id_trust: bool = False,
        content: ItemContentConfig | None = None,
        modalities: Mapping[str, tuple[int, Modality]] | None = None,
    ) -> None:
        """modalities: by name the place in inv_norm and the columns of codes, where there is content."""
        super().__init__()
        self.width = id_dim
        self.out_of_vocabulary = nn.Parameter(torch.zeros(id_dim))
        self.log_doubt = nn.Parameter(torch.zeros(())) if id_trust else None  # log n_0
        self.attributes = ColumnEmbedding(attributes, attribute_dim) if attributes.slots else None
        if self.attributes is not None:
            self.width += self.attributes.width
        self.content = [(modalities or {})[name] for name in content.modalities] if content else []
        self.projections = nn.ModuleList(
            nn.Linear(modality.dim, content.dim, bias=False) for _, modality in self.content if content
        )
        if content is not None:
            self.width += len(self.content) * content.dim

    def forward(self, rows: ItemRows) -> Tensor:
        parts = [self._ids(rows)]
        if self.attributes is not None:
            parts.append(self.attributes(rows.attributes, rows.attribute_values))
        for (column, modality), projection in zip(self.content, self.projections, strict=True):
            codes = rows.codes[:, modality.start : modality.start + modality.dim].float()
            parts.append(projection(codes * rows.inv_norm[:, column : column + 1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _ids(self, rows: ItemRows) -> Tensor:
        known = rows.id_known.unsqueeze(1)
        if self.log_doubt is None:
            return torch.where(known, rows.id_vectors, self.out_of_vocabulary)
        if rows.id_evidence is None:
            raise InvalidInput("id_evidence", None, "must be given where IDs are trusted by evidence")
        examples = torch.expm1(rows.id_evidence).unsqueeze(1)
        trust = torch.where(known, examples / (examples + torch.exp(self.log_doubt)), 0.0)
        return torch.lerp(self.out_of_vocabulary.expand_as(rows.id_vectors), rows.id_vectors, trust)


def drop_ids(id_known: Tensor, rate: float, draws: Tensor) -> Tensor:
    """ID dropout for training: whole items lose their ID vector for this batch, in target and history alike.

    id_known: (K,) bool; rate: probability in [0, 1); draws: (K,) float32 in [0, 1) -> (K,) bool.
    """
    if not 0.0 <= rate < 1.0:
        raise InvalidInput("rate", rate, "must be in [0, 1)")
    return id_known & (draws >= rate)
