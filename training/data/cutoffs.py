"""The cure for logs in which the times of negatives were drawn from their user's own positives.

There a positive stands where its user was at that moment, among the likes of the same sitting, and a
negative anywhere: likeness to the last likes then tells the label, in such a log and nowhere else. So each
positive of the train split is asked at a drawn time as well. Three things would still tell it:

    the like itself in its own history                    left out
    a history shorter by the one that was left out        refilled by the next like
    a time that negatives cannot have                     drawn from the same positives as theirs
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.interactions import TRAIN, Interactions


@dataclass(frozen=True, eq=False)
class Cutoffs:
    """When each request is asked. redrawn: (R,) bool, rows with a drawn time and a request of their own."""

    requests: npt.NDArray[np.int64]  # (R,) numbers 0, 1, … by time asked
    asked: npt.NDArray[np.int64]  # (Q,) seconds
    source: npt.NDArray[np.int64]  # (Q,) the log's own request of each
    redrawn: npt.NDArray[np.bool_]


def own_cutoffs(log: Interactions) -> Cutoffs:
    """Each request at the time of its earliest row."""
    asked = np.empty(int(log.requests.max()) + 1, dtype=np.int64)
    asked[log.requests[::-1]] = log.timestamps[::-1]  # rows are sorted: the first one stays
    return Cutoffs(log.requests, asked, np.arange(len(asked)), np.zeros(len(log), dtype=bool))


def redraw_cutoffs(log: Interactions, seed: int) -> Cutoffs:
    """Every train positive at a time drawn from its user's train positives, in a request of its own.

    A like of an item that the user likes twice keeps its time: its history may hold the other one.
    """
    own = own_cutoffs(log)
    train = np.flatnonzero((log.labels == 1) & (log.splits == TRAIN))
    train = train[np.argsort(log.users[train], kind="stable")]  # by user, then time
    users = log.users[train]
    first = np.searchsorted(users, users, side="left")
    count = np.searchsorted(users, users, side="right") - first
    drawn = first + np.floor(np.random.default_rng(seed).random(len(train)) * count).astype(np.int64)
    once = _liked_once(log)[train]
    rows, times = train[once], log.timestamps[train[drawn[once]]]
    redrawn = np.zeros(len(log), dtype=bool)
    redrawn[rows] = True
    requests = own.requests.copy()
    requests[rows] = len(own.asked) + np.arange(len(rows))
    asked = np.concatenate([own.asked, times])
    source = np.concatenate([own.source, own.requests[rows]])
    left = np.unique(requests)  # a request whose rows are all redrawn is gone
    order = left[np.argsort(asked[left], kind="stable")]
    number = np.empty(len(asked), dtype=np.int64)
    number[order] = np.arange(len(order))
    return Cutoffs(number[requests], asked[order], source[order], redrawn)


def _liked_once(log: Interactions) -> npt.NDArray[np.bool_]:
    """(R,) bool: no other row of the same user and item is liked."""
    keys = log.users.astype(np.int64) * (int(log.items.max()) + 1) + log.items
    _, place = np.unique(keys, return_inverse=True)
    liked: npt.NDArray[np.bool_] = (np.bincount(place, weights=log.labels == 1) == 1)[place]
    return liked
