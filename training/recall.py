"""How well vectors find what was chosen: exact ranks in a fixed gallery, and the collapse alarm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
_CHUNK = 512
_EPSILON = 1e-6


def ranks(queries: Vectors, items: Vectors, pairs: Indices, gallery: Indices) -> Indices:
    """0 = first: how many of the gallery are at least as near to the query as the chosen item is.

    queries, items: (I, d) unit vectors, zero rows where missing; pairs: (P, 2) rows, gallery: (G,) rows
    -> (P,) int64. The query itself does not compete; equal cosines count against the item, so collapsed
    vectors find nothing; a pair that lacks either vector ranks last.
    """
    there = items[gallery].any(axis=1)
    found = np.full(len(pairs), len(gallery), dtype=np.int64)
    usable = np.flatnonzero(queries[pairs[:, 0]].any(axis=1) & items[pairs[:, 1]].any(axis=1))
    bank = np.ascontiguousarray(items[gallery].T)
    for start in range(0, len(usable), _CHUNK):
        chunk = usable[start : start + _CHUNK]
        query, item = pairs[chunk, 0], pairs[chunk, 1]
        cosines = queries[query] @ bank
        own = (queries[query] * items[item]).sum(axis=1, keepdims=True)
        rivals = there & (gallery != query[:, None]) & (gallery != item[:, None])
        found[chunk] = ((cosines >= own - _EPSILON) & rivals).sum(axis=1)
    return found


def recall(found: Indices, at: Sequence[int] = (1, 10, 50)) -> dict[int, float]:
    """Share of pairs whose item is among the first k. found: (P,) from `ranks`, P > 0."""
    return {k: float((found < k).mean()) for k in at}


def gains(found: Indices) -> npt.NDArray[np.float64]:
    """1 / log2(2 + rank) of each pair, whose mean is NDCG: recall without a cut-off, so far less noisy."""
    each: npt.NDArray[np.float64] = 1.0 / np.log2(2.0 + found)
    return each


def mean_pairwise_cosine(vectors: Vectors) -> float:
    """Mean cosine of two different ones of (K, d) unit vectors; near 1 they have collapsed, 0 if K < 2."""
    vectors = vectors[vectors.any(axis=1)].astype(np.float64)
    count = len(vectors)
    if count < 2:
        return 0.0
    total = vectors.sum(axis=0)
    return float((total @ total - (vectors * vectors).sum()) / (count * (count - 1)))
