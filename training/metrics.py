"""Exact offline metrics on numpy arrays: sort-based, ties count one half, no approximation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput

_CLIP = 1e-7  # a float32 sigmoid saturates at 1 - 6e-8: keeps its logarithm finite


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve. labels: (n,) 0/1, scores: (n,) -> float; NaN with one class only."""
    y, s = _checked(labels, scores, "scores")
    return _weighted_auc(y, s, np.zeros(len(y), dtype=np.int64))


def gauc(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.NDArray[Any]) -> float:
    """AUC per group, averaged with the groups' impressions as weights.

    groups: (n,) of any dtype that sorts, such as users or requests. A group with one class only is skipped;
    NaN where every group is.
    """
    y, s = _checked(labels, scores, "scores")
    keys = np.asarray(groups)
    if keys.shape != y.shape:
        raise InvalidInput("groups", keys.shape, f"must have the shape of labels, {y.shape}")
    _, numbers = np.unique(keys, return_inverse=True)
    return _weighted_auc(y, s, numbers.astype(np.int64))


def logloss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean binary cross entropy in nats, NaN when empty.

    labels: (n,) 0/1; probabilities: (n,) in [0, 1], clipped to [1e-7, 1 - 1e-7].
    """
    y, p = _checked(labels, probabilities, "probabilities")
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise InvalidInput("probabilities", float(p[outside][0]), "must be in [0, 1]")
    if not len(y):
        return float("nan")
    p = np.clip(p, _CLIP, 1 - _CLIP)
    return float(-np.mean(np.where(y, np.log(p), np.log1p(-p))))


def _checked(
    labels: npt.ArrayLike, values: npt.ArrayLike, name: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    y = np.asarray(labels)
    v = np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or v.shape != y.shape:
        raise InvalidInput(name, v.shape, f"must have the shape of labels, one dimension, {y.shape}")
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        raise InvalidInput("labels", y[wrong][0].item(), "must be 0 or 1")
    if np.isnan(v).any():
        raise InvalidInput(f"{name}[{int(np.flatnonzero(np.isnan(v))[0])}]", float("nan"), "is not a number")
    return y.astype(np.bool_), v


def _weighted_auc(
    y: npt.NDArray[np.bool_], s: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]
) -> float:
    """groups: (n,) dense numbers from 0. Mann-Whitney by mid-ranks within the group, all groups at once."""
    if not len(y):
        return float("nan")
    order = np.lexsort((s, groups))
    y, s, g = y[order], s[order], groups[order]
    first = np.flatnonzero(np.r_[True, (g[1:] != g[:-1]) | (s[1:] != s[:-1])])  # of each run of ties
    length = np.diff(np.r_[first, len(y)])
    size = np.bincount(g)
    start = np.cumsum(size) - size
    # twice the mid-rank, 1-based and within the group: an integer, so that sums are exact
    doubled_rank = np.repeat(2 * (first - start[g[first]]) + length + 1, length)
    positives = np.bincount(g, weights=y).astype(np.int64)
    doubled_sum = np.zeros(len(size), dtype=np.int64)
    np.add.at(doubled_sum, g[y], doubled_rank[y])
    negatives = size - positives
    mixed = (positives > 0) & (negatives > 0)
    if not mixed.any():
        return float("nan")
    p, n = positives[mixed], negatives[mixed]
    area = (doubled_sum[mixed] - p * (p + 1)) / (2.0 * p * n)
    return float(np.average(area, weights=size[mixed]))
