"""How a ranker reads the attribute slots of records: vocabularies fitted on the items that training sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.errors import InvalidInput
from contracts.features import AttributeVocabulary
from contracts.items import AttributeField

BINS = 16
MIN_COUNT = 2


def fit_vocabularies(
    records: Rows, fields: Sequence[AttributeField], *, bins: int = BINS, min_count: int = MIN_COUNT
) -> tuple[AttributeVocabulary, ...]:
    """Records (K,) of the items that training sees -> one vocabulary per field of their space.

    categorical: the token hashes that occur at least `min_count` times, all others read as unknown;
    numeric: at most `bins` bins of about equal count, fewer where values repeat. A value that no
    training item has reads as unknown, or falls into the nearest outer bin.
    """
    if bins < 1:
        raise InvalidInput("bins", bins, "must be at least 1")
    if min_count < 1:
        raise InvalidInput("min_count", min_count, "must be at least 1")
    slots = records["attributes"]
    wanted = sum(f.slots for f in fields)
    if slots.shape[1] != wanted:
        raise InvalidInput("records.attributes", slots.shape, f"must have {wanted} slots")
    out, column = [], 0
    for f in fields:
        block = np.ascontiguousarray(slots[:, column : column + f.slots])
        tokens, edges = np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.float32)
        if f.kind == "numeric":
            edges = quantile_edges(block.view(np.float32).ravel(), bins)
        else:
            distinct, counts = np.unique(block[block != 0], return_counts=True)
            tokens = distinct[counts >= min_count].astype(np.uint32)
        out.append(AttributeVocabulary(f, tokens, edges))
        column += f.slots
    return tuple(out)


def quantile_edges(values: npt.NDArray[np.float32], bins: int) -> npt.NDArray[np.float32]:
    """values: (K,) float32, NaN = absent -> at most bins - 1 ascending inner edges, float32.

    Bin b holds edges[b-1] <= x < edges[b]. Edges are values that occur, so no bin is empty.
    """
    present = values[~np.isnan(values)]
    if not len(present):
        return np.zeros(0, dtype=np.float32)
    shares = np.arange(1, bins) / bins
    edges = np.unique(np.quantile(present, shares, method="higher")).astype(np.float32)
    inner: npt.NDArray[np.float32] = edges[edges > present.min()]
    return inner
