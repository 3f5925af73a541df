"""Few shapes instead of many: a graph's inputs padded to the next rung of a ladder, scores unchanged.

Padding candidates read row 0 and are cut off, padding behaviours are masked and stand at the old end, padding
rows are zero rows that nothing reads:

    behaviours  [ 7 3 9 ] ──► [ 0 0 0 7 3 9 ]      candidates  [ 1 2 ] ──► [ 1 2 0 0 ]

B, N and T have ladders; K follows from them: 1 + B (N + T), the most rows that such requests can name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from contracts.features import BEHAVIOUR_INPUTS, ROW_INPUTS, Inputs

_FIRST = 16  # the smallest N and T


class Shape(NamedTuple):
    """B requests, N candidates, T behaviours."""

    requests: int
    candidates: int
    behaviours: int

    @property
    def rows(self) -> int:
        """K, the zero row included."""
        return 1 + self.requests * (self.candidates + self.behaviours)


def shape_of(inputs: Mapping[str, npt.NDArray[Any]]) -> Shape:
    """Of a graph's inputs."""
    requests, candidates = inputs["candidates"].shape
    return Shape(requests, candidates, inputs["behaviours"].shape[1])


def ladder(first: int, most: int) -> tuple[int, ...]:
    """first, twice that, … and `most` itself: every size from 1 to `most` has a rung at most twice as large,
    or `first`. Raises InvalidInput below 1."""
    if min(first, most) < 1:
        raise InvalidInput("ladder", (first, most), "must be at least 1")
    rungs = []
    while first < most:
        rungs.append(first)
        first *= 2
    return (*rungs, most)


@dataclass(frozen=True)
class ShapeBuckets:
    """Rungs in rising order. behaviours end with the history length: a graph has no older positions."""

    requests: tuple[int, ...]
    candidates: tuple[int, ...]
    behaviours: tuple[int, ...]

    def of(self, shape: Shape) -> Shape | None:
        """The smallest bucket that holds a shape, None where none does."""
        ladders = (self.requests, self.candidates, self.behaviours)
        sizes = [
            next((r for r in rungs if r >= size), None) for rungs, size in zip(ladders, shape, strict=True)
        ]
        b, n, t = sizes
        return None if b is None or n is None or t is None else Shape(b, n, t)

    def of_one(self) -> Iterator[Shape]:
        """Every bucket of a single request, the largest first: what is kept for it serves the others too."""
        for n in reversed(self.candidates):
            for t in reversed(self.behaviours):
                yield Shape(1, n, t)


def buckets_for(candidates: int, history_length: int, requests: int = 1) -> ShapeBuckets:
    """Buckets up to so many candidates, behaviours and requests, each itself a rung."""
    return ShapeBuckets(ladder(1, requests), ladder(_FIRST, candidates), ladder(_FIRST, history_length))


def pad(inputs: Mapping[str, npt.NDArray[Any]], bucket: Shape) -> Inputs:
    """Inputs of contracts.features in the bucket's shape; outputs are to be cut to [:B, :N].

    Raises InvalidInput where the inputs are larger than the bucket.
    """
    shape, rows = shape_of(inputs), len(inputs["inv_norm"])
    if any(size > most for size, most in zip((*shape, rows), (*bucket, bucket.rows), strict=True)):
        raise InvalidInput("inputs", (*shape, rows), f"do not fit into {(*bucket, bucket.rows)}")
    padded: Inputs = {}
    for name, array in inputs.items():
        if name in ROW_INPUTS:
            padded[name] = _into(array, (bucket.rows, *array.shape[1:]), 0)
        elif name == "candidates":
            padded[name] = _into(array, bucket[:2], 0)
        elif name in BEHAVIOUR_INPUTS:
            older = bucket.behaviours - shape.behaviours
            padded[name] = _into(array, (bucket.requests, bucket.behaviours), older)
        else:
            padded[name] = _into(array, (bucket.requests, *array.shape[1:]), 0)
    return padded


def _into(array: npt.NDArray[Any], shape: tuple[int, ...], second: int) -> npt.NDArray[Any]:
    """`array` in zeros of `shape`, from [0, second] on."""
    if array.shape == shape:
        return array
    out = np.zeros(shape, dtype=array.dtype)
    out[(slice(array.shape[0]), *((slice(second, second + array.shape[1]),) if array.ndim > 1 else ()))] = (
        array
    )
    return out
