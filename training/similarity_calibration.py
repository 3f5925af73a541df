"""How DMAE's similarities fill their buckets, and the two numbers per modality that spread them.

r = (cos + 1) / 2 of anisotropic vectors (large language models') sits in some hundredths, 0.925 to 0.975
say, which is 3 of 50 buckets. scale * r + shift, clipped to [0, 1], is part of the model and of its graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from contracts.errors import InvalidInput
from training.batches import make_batch
from training.data.interactions import TRAIN
from training.data.samples import Samples
from training.item_table import ItemTable
from training.models.similarity import Modality, compare, unit_interval

PAIRS = 1 << 20  # candidate x behaviour that are looked at, about
LEAST_USE = 0.25  # share of buckets below which a modality says hardly anything
_USED = 0.1  # of its even share, what a bucket has to hold to be used
_LOW, _HIGH = 0.01, 0.99  # quantiles that become 0 and 1
_NARROWEST = 0.01  # of r: below, the codes' own rounding would be spread out
_CHUNK = 64  # samples compared at once

Pair = tuple[float, float]  # scale, shift
Similarities = dict[str, npt.NDArray[np.float32]]


class FewBuckets(UserWarning):
    """A modality's similarities fall into too few of DMAE's buckets."""


def similarities(
    samples: Samples,
    items: ItemTable,
    modalities: Sequence[Modality],
    names: Sequence[str],
    history_length: int,
    *,
    pairs: int = PAIRS,
) -> Similarities:
    """r of train candidates with their histories, by modality: (P,) float32, both vectors there.

    modalities: the space's, in its order; names: which of them. Samples are taken evenly from the train
    split, about `pairs` pairs in all.
    """
    train = np.flatnonzero(samples.splits == TRAIN)
    lengths = np.minimum(samples.ends[train] - samples.starts[train], history_length)
    each = samples.candidate_mask[train].sum(1) * lengths
    train, each = train[each > 0], each[each > 0]
    stride = max(1, -(-int(each.sum()) // pairs))
    train = train[::stride]
    wanted = [(column, m) for column, m in enumerate(modalities) if m.name in names]
    found: dict[str, list[npt.NDArray[np.float32]]] = {m.name: [] for _, m in wanted}
    for at in range(0, len(train), _CHUNK):
        batch = make_batch(samples, train[at : at + _CHUNK], history_length, items)
        for column, m in wanted:
            compared = compare(
                torch.from_numpy(items.codes[batch.content, m.start : m.start + m.dim]),
                torch.from_numpy(items.inv_norm[batch.content, column]),
                batch.candidates,
                batch.behaviours,
                batch.behaviour_mask,
            )
            inside = compared.mask & batch.candidate_mask.unsqueeze(2)
            found[m.name].append(unit_interval(compared.cosine)[inside].numpy())
    return {name: np.concatenate([np.zeros(0, np.float32), *parts]) for name, parts in found.items()}


def fit_similarity_calibration(
    found: Mapping[str, npt.NDArray[np.float32]], modalities: Sequence[str]
) -> tuple[Pair, ...]:
    """(scale, shift) per modality: the 1st percentile of r becomes 0, the 99th 1 (DmaeConfig.calibration).

    found: `similarities`. A range of r below 0.01 is widened to it; without a pair nothing is changed.
    """
    out: list[Pair] = []
    for name in modalities:
        if not len(found[name]):
            out.append((1.0, 0.0))
            continue
        low, high = np.quantile(found[name].astype(np.float64), (_LOW, _HIGH)).tolist()
        spread = max(high - low, _NARROWEST)
        start = (low + high - spread) / 2
        out.append((1 / spread, -start / spread))
    return tuple(out)


def bucket_use(r: npt.NDArray[np.float32], buckets: int, calibration: Pair = (1.0, 0.0)) -> float:
    """Share of MIEU's buckets (eq 1) that hold at least a tenth of their even share of the pairs; 0 of none.

    r: (P,) float32 in [0, 1], through `calibration` as the model would take it.
    """
    if buckets < 2:
        raise InvalidInput("buckets", buckets, "must be at least 2")
    if not len(r):
        return 0.0
    scale, shift = calibration
    spread = np.clip(r * np.float32(scale) + np.float32(shift), 0, 1)
    place = np.floor(spread * (buckets - 1)).astype(np.int64)
    held = np.bincount(place, minlength=buckets)
    return float((held >= _USED * len(r) / buckets).mean())


def warn_of_few_buckets(use: Mapping[str, float]) -> None:
    """FewBuckets for every modality below a quarter. use: `bucket_use` by modality."""
    for name, share in use.items():
        if share < LEAST_USE:
            warnings.warn(
                f"similarities of {name} use {share:.0%} of DMAE's buckets: calibrate_similarity helps",
                FewBuckets,
                stacklevel=2,
            )
