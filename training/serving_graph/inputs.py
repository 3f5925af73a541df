"""The graph's inputs, gathered once: item embeddings per unique row, similarities per request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.models.columns import ColumnEmbedding
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

    def query(self, name: str) -> tuple[str, str]:
        """Of one modality: the cosine of query and candidate, and 1 where both are there; (B, N, 1) each."""
        b, (column, modality) = self._b, self._modalities[name]
        codes = b.op("Cast", b.slice("codes", modality.start, modality.start + modality.dim, 1), to=1)
        inv_norm = b.op("Gather", "inv_norm", b.const(column, np.int64), axis=1)
        shown = b.unsqueeze(b.op("Gather", inv_norm, "candidates"), 2)
        asked = b.slice("query_codes", modality.start, modality.start + modality.dim, 1)
        asked = b.unsqueeze(b.op("Cast", asked, to=1), 2)  # (B, d_m, 1)
        dot = b.op("MatMul", b.op("Gather", codes, "candidates"), asked)
        scale = b.unsqueeze(b.slice("query_inv_norm", column, column + 1, 1), 1)  # (B, 1, 1)
        cosine = b.op("Mul", b.op("Mul", dot, shown), scale)
        zero = b.const(0.0)
        there = b.op("And", b.op("Greater", shown, zero), b.op("Greater", scale, zero))
        return cosine, b.op("Cast", there, to=1)

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
    """(K, d_v): ID or out-of-vocabulary vector ⊕ the mean attribute of each field ⊕ projected content."""
    parts = [_id_vectors(b, items)]
    if items.attributes is not None:
        parts += column_embedding(b, items.attributes, "attributes", "attribute_values")
    for (column, modality), projection in zip(items.content, items.projections, strict=True):
        codes = b.slice("codes", modality.start, modality.start + modality.dim, 1)
        unit = b.op("Mul", b.op("Cast", codes, to=1), b.slice("inv_norm", column, column + 1, 1))
        parts.append(b.op("MatMul", unit, b.const(array(projection.weight).T)))
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=1)


def _id_vectors(b: GraphBuilder, items: ItemEmbedding) -> str:
    """(K, d_id): the ID vector as far as it is known and, with trust by evidence, trusted."""
    ids = b.op("Mul", b.op("Cast", "id_codes", to=1), b.unsqueeze("id_scale", 1))
    unknown = b.const(array(items.out_of_vocabulary))
    known = b.unsqueeze("id_known", 1)
    if items.log_doubt is None:
        return b.op("Where", known, ids, unknown)
    examples = b.op("Sub", b.op("Exp", b.unsqueeze("id_evidence", 1)), b.const(1.0))
    doubted = b.op("Add", examples, b.const(float(np.exp(array(items.log_doubt)))))
    trust = b.op("Where", known, b.op("Div", examples, doubted), b.const(0.0))
    return b.op("Add", unknown, b.op("Mul", trust, b.op("Sub", ids, unknown)))


def column_embedding(b: GraphBuilder, columns: ColumnEmbedding, rows: str, values: str) -> list[str]:
    """Per field the mean of value * table[row] over its present columns: (K, dim) each."""
    table = array(columns.table)
    table[0] = 0.0  # absent
    vectors = b.op("Gather", b.const(table), rows)  # (K, C, dim)
    if columns.scaled:
        vectors = b.op("Mul", vectors, b.unsqueeze(values, 2))
    present = b.op("Cast", b.op("Greater", rows, b.const(0, np.int32)), to=1)
    parts, column = [], 0
    for slots in columns.slots:
        field = b.slice(vectors, column, column + slots, 1)
        total = b.op("ReduceSum", field, b.ints(1), keepdims=0)
        if slots > 1:
            counted = b.slice(present, column, column + slots, 1)
            count = b.op("ReduceSum", counted, b.ints(1), keepdims=1)
            total = b.op("Div", total, b.op("Max", count, b.const(1.0)))
        parts.append(total)
        column += slots
    return parts
