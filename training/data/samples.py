"""The log as training and evaluation read it: one sample per request, histories without leaks.

A history is a slice of one flat array of the users' liked items:

    liked  [ user 0: 3 9 4 | user 1: 7 7 2 5 | … ]      oldest first
                    ^starts[r]      ^ends[r]            strictly before request r's time

contracts.features.align_histories turns slices into right-aligned (B, T) arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.dataset import Dataset
from training.data.interactions import TEST, Interactions

MAX_CANDIDATES = 64


@dataclass(frozen=True, eq=False)
class Samples:
    """R samples in time order, N candidates each. Items are catalogue rows + 1, 0 is padding."""

    candidates: npt.NDArray[np.int32]  # (R, N), left-aligned
    labels: npt.NDArray[np.float32]  # (R, N), 0 at padding
    candidate_mask: npt.NDArray[np.bool_]  # (R, N)
    users: npt.NDArray[np.int32]  # (R,)
    splits: npt.NDArray[np.int8]  # (R,)
    timestamps: npt.NDArray[np.int64]  # (R,) seconds, of the request's earliest row
    requests: npt.NDArray[np.int64]  # (R,) several samples share one where a request was cut
    liked: npt.NDArray[np.int32]  # (P,) items by user, then time
    starts: npt.NDArray[np.int64]  # (R,) into liked
    ends: npt.NDArray[np.int64]  # (R,) into liked, exclusive

    def __len__(self) -> int:
        return len(self.users)


def build_samples(dataset: Dataset, new: npt.NDArray[np.bool_], history_length: int) -> Samples:
    """The samples of a dataset.

    new: (I,) bool; such items are no candidates in train and val, but stay in histories.
    history_length: T, the most recent likes kept. A request of more than MAX_CANDIDATES is cut into several.
    """
    log = dataset.interactions
    if history_length < 1:
        raise InvalidInput("history_length", history_length, "must be at least 1")
    if new.shape != (len(dataset.catalogue),):
        raise InvalidInput("new", new.shape, f"must have shape ({len(dataset.catalogue)},)")
    kept = np.flatnonzero((log.splits == TEST) | ~new[log.items])
    if not len(kept):
        raise InvalidInput("new", int(new.sum()), "leaves no candidate")
    kept = kept[np.argsort(log.requests[kept], kind="stable")]
    sample, place = _places(log.requests[kept])
    firsts = np.flatnonzero(place == 0)
    heads = kept[firsts]
    shape = (len(firsts), int(place.max()) + 1)
    candidates = np.zeros(shape, dtype=np.int32)
    labels = np.zeros(shape, dtype=np.float32)
    candidates[sample, place] = log.items[kept] + 1
    labels[sample, place] = log.labels[kept]
    begins = _begins(log)[log.requests[heads]]
    liked, starts, ends = _histories(log, log.users[heads], begins, history_length)
    return Samples(
        candidates=candidates,
        labels=labels,
        candidate_mask=candidates > 0,
        users=log.users[heads],
        splits=log.splits[heads],
        timestamps=begins,
        requests=log.requests[heads],
        liked=liked,
        starts=starts,
        ends=ends,
    )


def _places(requests: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Grouped requests (K,) -> each row's sample (K,) and its place in it (K,), below MAX_CANDIDATES."""
    rows = np.arange(len(requests))
    opens = np.diff(requests, prepend=requests[0] - 1) != 0
    within = rows - np.maximum.accumulate(np.where(opens, rows, 0))
    place = within % MAX_CANDIDATES
    return np.cumsum(place == 0) - 1, place


def _begins(log: Interactions) -> npt.NDArray[np.int64]:
    """The time of each request's earliest row; rows are sorted by time."""
    out = np.empty(int(log.requests.max()) + 1, dtype=np.int64)
    out[log.requests[::-1]] = log.timestamps[::-1]
    return out


def _histories(
    log: Interactions,
    users: npt.NDArray[np.int32],
    times: npt.NDArray[np.int64],
    history_length: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """liked (P,), starts and ends (R,) for requests of `users` (R,) at `times` (R,) seconds."""
    positives = np.flatnonzero(log.labels == 1)
    positives = positives[np.argsort(log.users[positives], kind="stable")]  # by user, then time
    # one sortable key for (user, time): times as their rank, so that the product stays small
    _, ranks = np.unique(np.concatenate([log.timestamps[positives], times]), return_inverse=True)
    span = int(ranks.max()) + 1
    keys = log.users[positives].astype(np.int64) * span + ranks[: len(positives)]
    asked = users.astype(np.int64) * span
    ends = np.searchsorted(keys, asked + ranks[len(positives) :], side="left")
    starts = np.maximum(np.searchsorted(keys, asked, side="left"), ends - history_length)
    return log.items[positives] + 1, starts.astype(np.int64), ends.astype(np.int64)
