"""Interest pairs held out from C-SFT: some that the head could have seen, some of items it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput

Pairs = npt.NDArray[np.int64]  # (P, 2) rows: query, chosen
_MIN_TRAINED_ITEMS = 20  # with fewer nothing is held out: there would be nothing to learn or to measure


@dataclass(frozen=True, eq=False)
class PairSplit:
    """trained, seen, unseen: (P, 2) int64. No trained pair holds an item that `unseen` chooses."""

    trained: Pairs
    seen: Pairs
    unseen: Pairs


def split_pairs(pairs: Pairs, share: float, seed: int, limit: int) -> PairSplit:
    """Hold out a share of the items (every pair of theirs leaves) and then a share of the other pairs.

    Both held-out parts are cut to `limit` pairs, drawn by seed.
    """
    if not 0 <= share < 0.5:
        raise InvalidInput("held_out", share, "must be at least 0 and below 0.5")
    rng = np.random.default_rng(seed)
    chosen = np.unique(pairs)
    if len(chosen) < _MIN_TRAINED_ITEMS or share == 0:
        return PairSplit(pairs, pairs[:0], pairs[:0])
    held = rng.permutation(chosen)[: max(1, round(share * len(chosen)))]
    touched = np.isin(pairs, held)
    rest = rng.permutation(pairs[~touched.any(axis=1)])
    unseen = rng.permutation(pairs[touched[:, 1]])
    count = round(share * len(rest))
    return PairSplit(rest[count:], rest[:count][:limit], unseen[:limit])
