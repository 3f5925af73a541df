"""Which items are new: kept out of everything that is trained, so that their scores tell the truth."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.dataset import Dataset
from training.data.interactions import TEST

MIN_ARRIVALS = 0.02  # share of the items with interactions from which arrivals are enough to measure on


def new_items(
    dataset: Dataset,
    *,
    mode: Literal["auto", "arrivals", "draw"] = "auto",
    fraction: float = 0.15,
    seed: int = 0,
) -> npt.NDArray[np.bool_]:
    """(I,) bool by catalogue row.

    arrivals: items with a test interaction and none before; draw: a seeded `fraction` of the items that
    have interactions; auto: arrivals where they are at least MIN_ARRIVALS of those items, else draw.
    """
    if mode not in ("auto", "arrivals", "draw"):
        raise InvalidInput("mode", mode, "must be auto, arrivals or draw")
    if not 0 < fraction < 1:
        raise InvalidInput("fraction", fraction, "must lie between 0 and 1")
    log, size = dataset.interactions, len(dataset.catalogue)
    seen = np.bincount(log.items, minlength=size) > 0
    seen_early = np.bincount(log.items[log.splits != TEST], minlength=size) > 0
    arrivals = seen & ~seen_early
    if mode == "arrivals" and not arrivals.any():
        raise InvalidInput("mode", mode, "no item appears in the test split alone; use draw")
    if mode == "arrivals" or (mode == "auto" and arrivals.sum() >= max(1.0, MIN_ARRIVALS * seen.sum())):
        return arrivals
    rows = np.flatnonzero(seen)
    drawn = np.random.default_rng(seed).permutation(rows)[: max(1, round(fraction * len(rows)))]
    new = np.zeros(size, dtype=bool)
    new[drawn] = True
    return new
