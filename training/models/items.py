"""From item rows to item embeddings, once per row: v = ID (or out-of-vocabulary) vector ⊕ attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput
from training.models.layers import table


class ItemRows(NamedTuple):
    """K items; row 0 is the padding row, all zero."""

    codes: Tensor  # (K, D) int8, modalities side by side
    inv_norm: Tensor  # (K, M) float32, 0 = modality missing
    attributes: Tensor  # (K, A) int32, row of the attribute table, 0 = absent
    id_vectors: Tensor  # (K, d_id) float32
    id_known: Tensor  # (K,) bool, False = the out-of-vocabulary vector is used


@dataclass(frozen=True)
class AttributeTable:
    """The attribute columns: `slots` per field, side by side; `rows` of the one table, row 0 = absent."""

    slots: tuple[int, ...] = ()
    rows: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InvalidInput("attributes.rows", self.rows, "must be at least 1")
        if any(s < 1 for s in self.slots):
            raise InvalidInput("attributes.slots", self.slots, "every field needs at least one slot")


class ItemEmbedding(nn.Module):
    """ItemRows -> v: (K, d_v) float32, d_v = d_id + fields * attribute_dim.

    A field with several slots is the mean of those present, zero where none is. The out-of-vocabulary
    vector is learned: ID dropout is what trains it.
    """

    width: int

    def __init__(self, attributes: AttributeTable, id_dim: int, attribute_dim: int) -> None:
        super().__init__()
        self.slots = attributes.slots
        self.attribute_dim = attribute_dim
        self.width = id_dim + len(attributes.slots) * attribute_dim
        self.out_of_vocabulary = nn.Parameter(torch.zeros(id_dim))
        if attributes.slots:
            self.attributes = table(attributes.rows, attribute_dim, 0.05)

    def forward(self, rows: ItemRows) -> Tensor:
        ids = torch.where(rows.id_known.unsqueeze(1), rows.id_vectors, self.out_of_vocabulary)
        if not self.slots:
            return ids
        present = (rows.attributes > 0).float()
        values = F.embedding(rows.attributes, self.attributes) * present.unsqueeze(2)
        parts, column = [ids], 0
        for slots in self.slots:
            count = present[:, column : column + slots].sum(1, keepdim=True).clamp(min=1.0)
            parts.append(values[:, column : column + slots].sum(1) / count)
            column += slots
        return torch.cat(parts, dim=1)


def drop_ids(id_known: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """ID dropout for training: whole items lose their ID vector for this batch, in target and history alike.

    id_known: (K,) bool; rate: probability in [0, 1) -> (K,) bool.
    """
    if not 0.0 <= rate < 1.0:
        raise InvalidInput("rate", rate, "must be in [0, 1)")
    kept = torch.rand(id_known.shape, generator=generator, device=id_known.device) >= rate
    return id_known & kept
