"""The graph's inputs, gathered once: item embeddings per unique row, similarities per request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.models.items import ItemEmbedding
from training.models.ranker import Ranker
from training.models.similarity import Modality
from training.serving_graph.builder import GraphBuilder, array


@dataclass(frozen=True)
class Content:
    """One modality. Names of tensors; float32."""

    candidates: str  # (B, N, d_m) raw codes
    candidate_inv_norm: str  # (B, N, 1)
    behaviours: str  # (B, T, d_m) raw codes
    behaviour_inv_norm: str  # (B, 1, T)
    shown: str  # (B, N) 1 where the candidate has this modality, else 0
    present: str  # (B, T) 1 for a real behaviour that has this modality, else 0


class Inputs:
    """What the interest modules read; a modality and its cosine are emitted when first asked for."""

    def __init__(self, b: GraphBuilder, ranker: Ranker) -> None:
        self._b = b
        self._modalities = {m.name: (i, m) for i, m in enumerate(ranker.config.modalities)}
        self._content: dict[str, Content] = {}
        self._cosine: dict[str, str] = {}
        self.history_length = ranker.config.history_length
        embedded = item_embedding(b, ranker.items)
        self.width = ranker.items.width
        self.candidates = b.op("Gather", embedded, "candidates")  # (B, N, d_v)
        self.behaviours = b.op("Gather", embedded, "behaviours")  # (B, T, d_v)
        self.mask = b.op("Cast", "behaviour_mask", to=1)  # (B, T) float32

    def dim(self, name: str) -> int:
        return self._modalities[name][1].dim

    def content(self, name: str) -> Content:
        if name not in self._content:
            self._content[name] = self._gather(*self._modalities[name])
        return self._content[name]

    def cosine(self, name: str) -> str:
        """(B, N, T), by the operations of training.models.similarity in their order: equal to the bit."""
        if name not in self._cosine:
            b, c = self._b, self.content(name)
            dot = b.op("MatMul", c.candidates, b.op("Transpose", c.behaviours, perm=[0, 2, 1]))
            scaled = b.op("Mul", dot, c.candidate_inv_norm)
            self._cosine[name] = b.op("Mul", scaled, c.behaviour_inv_norm)
        return self._cosine[name]

    def _gather(self, column: int, modality: Modality) -> Content:
        b = self._b
        codes = b.slice("codes", modality.start, modality.start + modality.dim, 1)
        codes = b.op("Cast", codes, to=1)  # once per unique row
        inv_norm = b.op("Gather", "inv_norm", b.const(column, np.int64), axis=1)
        candidate = b.op("Gather", inv_norm, "candidates")
        behaviour = b.op("Gather", inv_norm, "behaviours")
        zero = b.const(0.0)
        present = b.op("And", "behaviour_mask", b.op("Greater", behaviour, zero))
        return Content(
            candidates=b.op("Gather", codes, "candidates"),
            candidate_inv_norm=b.unsqueeze(candidate, 2),
            behaviours=b.op("Gather", codes, "behaviours"),
            behaviour_inv_norm=b.unsqueeze(behaviour, 1),
            shown=b.op("Cast", b.op("Greater", candidate, zero), to=1),
            present=b.op("Cast", present, to=1),
        )


def item_embedding(b: GraphBuilder, items: ItemEmbedding) -> str:
    """(K, d_v): ID or out-of-vocabulary vector ⊕ the mean attribute of each field."""
    ids = b.op("Mul", b.op("Cast", "id_codes", to=1), b.unsqueeze("id_scale", 1))
    ids = b.op("Where", b.unsqueeze("id_known", 1), ids, b.const(array(items.out_of_vocabulary)))
    if not items.slots:
        return ids
    table = array(items.attributes)
    table[0] = 0.0  # absent
    values = b.op("Gather", b.const(table), "attributes")  # (K, A, attribute_dim)
    present = b.op("Cast", b.op("Greater", "attributes", b.const(0, np.int32)), to=1)
    parts, column = [ids], 0
    for slots in items.slots:
        field = b.slice(values, column, column + slots, 1)
        total = b.op("ReduceSum", field, b.ints(1), keepdims=0)
        if slots > 1:
            counted = b.slice(present, column, column + slots, 1)
            count = b.op("ReduceSum", counted, b.ints(1), keepdims=1)
            total = b.op("Div", total, b.op("Max", count, b.const(1.0)))
        parts.append(total)
        column += slots
    return b.op("Concat", *parts, axis=1)
