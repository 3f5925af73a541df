"""How well cosines of content alone rank candidates: the measure by which content vectors are chosen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.samples import Samples
from training.metrics import auc

_SAMPLES = 512  # at once


def similarity_auc(
    vectors: npt.NDArray[np.float32], samples: Samples, split: int, new: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """AUC of the mean and the largest cosine of a candidate with the user's behaviours.

    vectors: (I, d) float32 unit rows in catalogue order, zero where unknown; new: (I,) bool. Keys: mean and
    max over all candidates, mean_warm, max_warm, mean_new, max_new by kind; NaN where a kind has one class.
    A behaviour without a vector counts as none, a sample without behaviours is left out.
    """
    if vectors.ndim != 2 or new.shape != (len(vectors),):
        raise InvalidInput("new", new.shape, f"must match vectors {vectors.shape}")
    known = np.concatenate([np.zeros(1, dtype=bool), np.abs(vectors).max(axis=1) > 0])
    table = np.concatenate([np.zeros((1, vectors.shape[1]), dtype=np.float32), vectors])
    rows = np.flatnonzero((samples.splits == split) & (samples.ends > samples.starts))
    if not len(rows):
        raise InvalidInput("split", split, "has no sample with a behaviour")
    length = int((samples.ends[rows] - samples.starts[rows]).max())
    parts = []
    for start in range(0, len(rows), _SAMPLES):
        some = rows[start : start + _SAMPLES]
        places = samples.ends[some, None] - 1 - np.arange(length)
        behaviours = np.where(places >= samples.starts[some, None], samples.liked[np.maximum(places, 0)], 0)
        there = known[behaviours]
        cosines = table[samples.candidates[some]] @ table[behaviours].transpose(0, 2, 1)  # (K, N, T)
        mean = cosines.sum(axis=2) / np.maximum(there.sum(axis=1), 1)[:, None]
        largest = np.where(there[:, None], cosines, -1).max(axis=2)
        kept = samples.candidate_mask[some] & (there.sum(axis=1) > 0)[:, None]
        items = samples.candidates[some][kept] - 1
        parts.append((samples.labels[some][kept], mean[kept], largest[kept], new[items]))
    labels, mean, largest, fresh = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    groups = {"": np.ones(len(fresh), dtype=bool), "_warm": ~fresh, "_new": fresh}
    return {
        f"{name}{suffix}": auc(labels[group], scores[group])
        for suffix, group in groups.items()
        for name, scores in (("mean", mean), ("max", largest))
    }
