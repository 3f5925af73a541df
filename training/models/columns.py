"""Embeddings of schema columns: items' attributes, and what is said of a user and of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput
from contracts.schema import FieldEncoding
from training.models.layers import table


@dataclass(frozen=True)
class AttributeTable:
    """Columns per field, side by side; `rows` of the one table, row 0 = absent (contracts.schema).

    scaled: whether some column's value is a number to multiply with, so that values have to be given.
    """

    slots: tuple[int, ...] = ()
    rows: int = 1
    scaled: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InvalidInput("attributes.rows", self.rows, "must be at least 1")
        if any(s < 1 for s in self.slots):
            raise InvalidInput("attributes.slots", self.slots, "every field needs at least one slot")

    @classmethod
    def of(cls, fields: Sequence[FieldEncoding]) -> AttributeTable:
        """The table of these fields of a schema."""
        return cls(
            tuple(f.columns for f in fields),
            1 + sum(f.rows for f in fields),
            any(f.encoding in ("standard", "log") for f in fields),
        )


class ColumnEmbedding(nn.Module):
    """rows: (K, C) int32, values: (K, C) float32 or None -> (K, fields * dim) float32.

    A field is the mean over its present columns of value * table[row], zero where none is.
    """

    width: int

    def __init__(self, columns: AttributeTable, dim: int) -> None:
        super().__init__()
        self.slots = columns.slots
        self.scaled = columns.scaled
        self.width = len(columns.slots) * dim
        self.table = table(columns.rows, dim, 0.05)

    def forward(self, rows: Tensor, values: Tensor | None) -> Tensor:
        present = (rows > 0).float()
        factor = present
        if self.scaled:
            if values is None:
                raise InvalidInput("values", values, "must be given where a number is scaled")
            factor = present * values
        vectors = F.embedding(rows, self.table) * factor.unsqueeze(2)
        parts, column = [], 0
        for slots in self.slots:
            count = present[:, column : column + slots].sum(1, keepdim=True).clamp(min=1.0)
            parts.append(vectors[:, column : column + slots].sum(1) / count)
            column += slots
        return torch.cat(parts, dim=1)
