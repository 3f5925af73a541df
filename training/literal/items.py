"""Item embeddings, written out: ID vector ⊕ attributes ⊕ projected content."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from contracts.errors import InvalidInput
from training.models.items import ItemEmbedding, ItemRows


class LiteralItems(nn.Module):
    """ItemRows -> v: (K, d_v) float32."""

    def __init__(self, trained: ItemEmbedding) -> None:
        super().__init__()
        self.out_of_vocabulary, self.log_doubt = trained.out_of_vocabulary, trained.log_doubt
        self.attributes = trained.attributes  # mean of present value * table[row]: nothing to write out
        self.content, self.projections = trained.content, trained.projections

    def forward(self, rows: ItemRows) -> Tensor:
        parts = [self._ids(rows)]
        if self.attributes is not None:
            parts.append(self.attributes(rows.attributes, rows.attribute_values))
        for (column, modality), projection in zip(self.content, self.projections, strict=True):
            codes = rows.codes[:, modality.start : modality.start + modality.dim].float()
            parts.append(projection(codes * rows.inv_norm[:, column].unsqueeze(1)))
        return torch.cat(parts, dim=1)

    def _ids(self, rows: ItemRows) -> Tensor:
        """x, or (n x + n_0 o) / (n + n_0) of n examples where evidence counts; o where there is no x."""
        x, unknown = rows.id_vectors, self.out_of_vocabulary
        if self.log_doubt is not None:
            if rows.id_evidence is None:
                raise InvalidInput("id_evidence", None, "must be given where IDs are trusted by evidence")
            n, doubt = torch.expm1(rows.id_evidence).unsqueeze(1), torch.exp(cast(Tensor, self.log_doubt))
            x = (n * x + doubt * unknown) / (n + doubt)
        return torch.where(rows.id_known.unsqueeze(1), x, unknown)
