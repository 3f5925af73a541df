"""How a ranker reads the columns of items, users and requests: encodings fitted on what training sees.

| field       | unless the caller names another                                             |
| ----------- | --------------------------------------------------------------------------- |
| categorical | vocabulary; of users and requests, hash from MAX_TOKENS distinct tokens on    |
| numeric     | bins; of users and requests, log where heavy-tailed (TAIL), else standard  |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.errors import InvalidInput
from contracts.items import AttributeField
from contracts.schema import MAX_BUCKETS, Encoding, FieldEncoding

BINS = 16
MIN_COUNT = 2
MAX_TOKENS = 200  # distinct tokens up to which a column of users or requests has a vocabulary
MIN_BUCKETS = 64
TAIL = 4.0  # 95th percentile over median from which a positive column is heavy-tailed

Slots = npt.NDArray[np.uint32]


def fit_vocabularies(
    records: Rows,
    fields: Sequence[AttributeField],
    *,
    bins: int = BINS,
    min_count: int = MIN_COUNT,
    encodings: Mapping[str, Encoding] | None = None,
) -> tuple[FieldEncoding, ...]:
    """Records (K,) of the items that training sees -> one encoding per field of their space.

    encodings: by field name, else categorical fields have a vocabulary and numeric ones bins.
    """
    return fit_columns(
        records["attributes"],
        fields,
        bins=bins,
        min_count=min_count,
        encodings=encodings,
        where="records.attributes",
    )


def fit_columns(
    slots: Slots,
    fields: Sequence[AttributeField],
    *,
    bins: int = BINS,
    min_count: int = MIN_COUNT,
    encodings: Mapping[str, Encoding] | None = None,
    default: Literal["items", "requests"] = "items",
    where: str = "slots",
) -> tuple[FieldEncoding, ...]:
    """Slots (K, S) of all fields side by side, of what training sees -> one encoding per field.

    vocabulary: the token hashes that occur at least `min_count` times, all others read as unknown;
    hash: twice as many buckets as distinct tokens, rounded up to a power of two;
    bins: at most `bins` of about equal count, fewer where values repeat;
    standard, log: mean and deviation of the present values, 0 and 1 where there are none.
    Raises InvalidInput where an encoding does not fit its field's kind.
    """
    if bins < 1:
        raise InvalidInput("bins", bins, "must be at least 1")
    if min_count < 1:
        raise InvalidInput("min_count", min_count, "must be at least 1")
    wanted = sum(f.slots for f in fields)
    if slots.shape[1] != wanted:
        raise InvalidInput(where, slots.shape, f"must have {wanted} slots")
    named = encodings or {}
    out: list[FieldEncoding] = []
    column = 0
    for f in fields:
        block = np.ascontiguousarray(slots[:, column : column + f.slots])
        if f.kind == "numeric":
            numbers = block.view(np.float32).ravel()
            kind = named.get(f.name) or ("bins" if default == "items" else scaling(numbers))
            out.append(_numeric(f, numbers, kind, bins))
        else:
            tokens, counts = np.unique(block[block != 0], return_counts=True)
            many = default == "requests" and len(tokens) > MAX_TOKENS
            kind = named.get(f.name) or ("hash" if many else "vocabulary")
            out.append(_categorical(f, tokens.astype(np.uint32), counts, kind, min_count))
        column += f.slots
    return tuple(out)


def _numeric(f: AttributeField, numbers: npt.NDArray[np.float32], kind: Encoding, bins: int) -> FieldEncoding:
    if kind == "bins":
        return FieldEncoding(f, kind, edges=quantile_edges(numbers, bins))
    x = numbers[~np.isnan(numbers)].astype(np.float64)
    if kind == "log":
        x = np.sign(x) * np.log1p(np.abs(x))
    mean, std = (float(x.mean()), float(x.std())) if len(x) else (0.0, 0.0)
    return FieldEncoding(f, kind, mean=mean, std=std if std > 0 else 1.0)


def _categorical(
    f: AttributeField, tokens: Slots, counts: npt.NDArray[np.int64], kind: Encoding, min_count: int
) -> FieldEncoding:
    if kind == "hash":
        buckets = 1 << int(np.ceil(np.log2(max(2 * len(tokens), MIN_BUCKETS))))
        return FieldEncoding(f, kind, buckets=min(buckets, MAX_BUCKETS))
    return FieldEncoding(f, kind, tokens[counts >= min_count] if kind == "vocabulary" else tokens)


def scaling(numbers: npt.NDArray[np.float32]) -> Literal["standard", "log"]:
    """numbers: (K,) float32, NaN = absent -> log where all are positive and some far above the median."""
    present = numbers[~np.isnan(numbers)]
    if not len(present) or not present.min() > 0:
        return "standard"
    median, high = np.quantile(present.astype(np.float64), [0.5, 0.95])
    return "log" if high >= TAIL * median else "standard"


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
