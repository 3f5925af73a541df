"""Interest pairs for C-SFT: given ones, or an item liked right before another by the same user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.items import Item
from training.data.dataset import Dataset
from training.data.interactions import TRAIN, Interactions

Pairs = npt.NDArray[np.int32]  # (P, 2) catalogue rows: query, chosen


def interest_pairs(dataset: Dataset, new: npt.NDArray[np.bool_]) -> Pairs:
    """(P, 2) int32 distinct pairs of catalogue rows, see counted_pairs."""
    return counted_pairs(dataset, new)[0]


def counted_pairs(dataset: Dataset, new: npt.NDArray[np.bool_]) -> tuple[Pairs, npt.NDArray[np.float32]]:
    """Distinct pairs (P, 2) int32 sorted by row, and how often each occurs (P,) float32.

    Pairs that were given go first; a pair whose query is a picture alone is left to the caller
    (dataset.interest_pairs.query_pictures). Else they come from the train split. No pair holds an item
    of new: (I,) bool, nor one item twice.
    """
    given = dataset.interest_pairs
    if given is not None:
        pairs = np.stack([given.queries, given.items], axis=1)
        pairs = pairs[pairs[:, 0] >= 0]
    else:
        pairs = _consecutive_likes(dataset.interactions, new)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & ~new[pairs].any(axis=1)]
    size = len(dataset.catalogue)
    keys, counts = np.unique(pairs[:, 0].astype(np.int64) * size + pairs[:, 1], return_counts=True)
    return np.stack([keys // size, keys % size], axis=1).astype(np.int32), counts.astype(np.float32)


def _consecutive_likes(log: Interactions, new: npt.NDArray[np.bool_]) -> Pairs:
    """(P, 2): each train like and the user's next one, as if new items had never been shown."""
    rows = np.flatnonzero((log.labels == 1) & (log.splits == TRAIN) & ~new[log.items])
    rows = rows[np.argsort(log.users[rows], kind="stable")]
    same_user = log.users[rows[1:]] == log.users[rows[:-1]]
    return np.stack([log.items[rows[:-1]][same_user], log.items[rows[1:]][same_user]], axis=1)


def encoder_input(
    dataset: Dataset, new: npt.NDArray[np.bool_]
) -> tuple[list[Item], Pairs, npt.NDArray[np.int64]]:
    """What training.recipes.encoder.train_encoder takes: items, pairs (P, 2) and the rows to learn from.

    The items are the catalogue's, and behind them one of its own for each query that is a picture alone.
    """
    catalogue = dataset.catalogue
    items = [catalogue.item(row) for row in range(len(catalogue))]
    pairs, rows = interest_pairs(dataset, new), np.flatnonzero(~new)
    given = dataset.interest_pairs
    if given is None:
        return items, pairs, rows
    lone = np.flatnonzero((given.queries < 0) & ~new[given.items])
    items += [Item(f"query-{n}", image=given.query_pictures.read(n)) for n in lone.tolist()]
    queries = np.arange(len(catalogue), len(items))
    pictured = np.stack([queries, given.items[lone]], axis=1).astype(np.int32)
    return items, np.concatenate([pairs, pictured]), np.concatenate([rows, queries])
