"""The log as training and evaluation read it: one sample per request, histories without leaks.

A history is a slice of one flat array of the users' liked items:

    liked  [ user 0: 3 9 4 | user 1: 7 7 2 5 | … ]      oldest first
                    ^starts[r]      ^ends[r]            strictly before request r's time

contracts.features.align_histories turns slices into right-aligned (B, T) arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema
from training.data.context import RequestColumns
from training.data.cutoffs import Cutoffs, own_cutoffs, redraw_cutoffs
from training.data.dataset import Dataset
from training.data.interactions import SPLITS, TEST, Interactions
from training.data.request_inputs import RequestInputs, Said

MAX_CANDIDATES = 64


@dataclass(frozen=True, eq=False)
class Samples:
    """R samples in time order, N candidates each. Items are catalogue rows + 1, 0 is padding.

    said: what users and requests say beside items; inputs: the same as one schema reads it (`read_by`).
    """

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
    liked_at: npt.NDArray[np.int64] | None = None  # (P,) seconds, None where times are not exact
    skips: npt.NDArray[np.int64] | None = None  # (R,) the place in liked that is left out, -1 = none
    said: Said = field(default_factory=Said)
    inputs: RequestInputs = field(default_factory=RequestInputs)
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: npt.NDArray[np.int64]) -> Samples:
        """The samples `chosen`: (R',)."""
        names = ("candidates", "labels", "candidate_mask", "users", "splits", "timestamps", "requests")
        rows = {name: getattr(self, name)[chosen] for name in (*names, "starts", "ends")}
        return dataclasses.replace(self, **rows, skips=None if self.skips is None else self.skips[chosen])

    def read_by(self, schema: FeatureSchema) -> Samples:
        """The same samples, whose batches hold what this schema reads of users and requests.

        Raises InvalidInput where it reads a column, a query or time gaps that the data does not have.
        """
        if schema.time_gaps and self.liked_at is None:
            raise InvalidInput("schema.time_gaps", True, "needs exact times: these samples have none")
        return dataclasses.replace(self, inputs=self.said.read_by(schema))


def build_samples(
    dataset: Dataset, new: npt.NDArray[np.bool_], history_length: int, *, seed: int = 0
) -> Samples:
    """The samples of a dataset.

    new: (I,) bool; such items are no candidates in train and val, but stay in histories.
    history_length: T, the most recent likes kept. A request of more than MAX_CANDIDATES is cut into several.
    seed: of the cut-offs of train positives, redrawn where the log has imputed times (training.data.cutoffs).
    """
    log = dataset.interactions
    if history_length < 1:
        raise InvalidInput("history_length", history_length, "must be at least 1")
    if new.shape != (len(dataset.catalogue),):
        raise InvalidInput("new", new.shape, f"must have shape ({len(dataset.catalogue)},)")
    kept = np.flatnonzero((log.splits == TEST) | ~new[log.items])
    if not len(kept):
        raise InvalidInput("new", int(new.sum()), "leaves no candidate")
    cutoffs = own_cutoffs(log) if log.imputed is None else redraw_cutoffs(log, seed)
    kept = kept[np.argsort(cutoffs.requests[kept], kind="stable")]
    requests = cutoffs.requests[kept]
    sample, place = _places(requests)
    firsts = np.flatnonzero(place == 0)
    heads = kept[firsts]
    shape = (len(firsts), int(place.max()) + 1)
    candidates = np.zeros(shape, dtype=np.int32)
    labels = np.zeros(shape, dtype=np.float32)
    candidates[sample, place] = log.items[kept] + 1
    labels[sample, place] = log.labels[kept]
    history = _histories(log, heads, cutoffs, history_length)
    samples = Samples(
        candidates=candidates,
        labels=labels,
        candidate_mask=candidates > 0,
        users=log.users[heads],
        splits=log.splits[heads],
        timestamps=cutoffs.asked[requests[firsts]],
        requests=requests[firsts],
        **history,
        said=_said(dataset, cutoffs),
    )
    return dataclasses.replace(samples, report=_report(dataset, samples, cutoffs, len(kept)))


def _places(requests: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Grouped requests (K,) -> each row's sample (K,) and its place in it (K,), below MAX_CANDIDATES."""
    rows = np.arange(len(requests))
    opens = np.diff(requests, prepend=requests[0] - 1) != 0
    within = rows - np.maximum.accumulate(np.where(opens, rows, 0))
    place = within % MAX_CANDIDATES
    return np.cumsum(place == 0) - 1, place


def _histories(
    log: Interactions, heads: npt.NDArray[np.int64], cutoffs: Cutoffs, history_length: int
) -> dict[str, Any]:
    """liked, liked_at, starts, ends, skips of the samples whose first rows are `heads`: (R,)."""
    positives = np.flatnonzero(log.labels == 1)
    positives = positives[np.argsort(log.users[positives], kind="stable")]  # by user, then time
    users, times = log.users[heads], cutoffs.asked[cutoffs.requests[heads]]
    # one sortable key for (user, time): times as their rank, so that the product stays small
    _, ranks = np.unique(np.concatenate([log.timestamps[positives], times]), return_inverse=True)
    span = int(ranks.max()) + 1
    keys = log.users[positives].astype(np.int64) * span + ranks[: len(positives)]
    asked = users.astype(np.int64) * span
    ends = np.searchsorted(keys, asked + ranks[len(positives) :], side="left")
    skips = np.full(len(heads), -1, dtype=np.int64)
    moved = np.flatnonzero(cutoffs.redrawn[heads])
    if len(moved):
        place = np.full(len(log), -1, dtype=np.int64)
        place[positives] = np.arange(len(positives))
        own = place[heads[moved]]
        inside = own < ends[moved]
        skips[moved[inside]] = own[inside]
        ends[moved[inside]] += 1  # the next like, at the drawn time itself, so that no hole is left
    starts = np.searchsorted(keys, asked, side="left")
    starts = np.maximum(starts, ends - history_length - (skips >= 0))
    exact = log.imputed is None
    return {
        "liked": log.items[positives] + 1,
        "liked_at": log.timestamps[positives] if exact else None,
        "starts": starts.astype(np.int64),
        "ends": ends.astype(np.int64),
        "skips": None if exact else skips,
    }


def _said(dataset: Dataset, cutoffs: Cutoffs) -> Said:
    log = dataset.interactions
    own = np.array_equal(cutoffs.source, np.arange(len(cutoffs.source)))
    context: RequestColumns | None = log.context
    if context is not None and not own:
        context = context.take(cutoffs.source)
    asked = None if log.queries is None else log.queries[cutoffs.source]
    return Said(dataset.users, context, dataset.queries if asked is not None else None, asked)


def _report(dataset: Dataset, samples: Samples, cutoffs: Cutoffs, kept: int) -> dict[str, Any]:
    """The dataset's report, and counts of what the samples leave out."""
    log = dataset.interactions
    length = samples.ends - samples.starts
    if samples.skips is not None:
        length = length - (samples.skips >= 0)
    return {
        **dataset.report,
        "samples": len(samples),
        "samples_without_history": {
            name: int(((samples.splits == number) & (length == 0)).sum())
            for number, name in enumerate(SPLITS)
        },
        "excluded_new_item_before_test": len(log) - kept,
        "requests_left_empty": len(cutoffs.asked) - len(np.unique(samples.requests)),
        "redrawn_cutoffs": int(cutoffs.redrawn.sum()),
    }
