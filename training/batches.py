"""Samples -> batches over unique item rows: a batch costs what it holds, whatever the catalogue's size.

Where content has versions, the K rows that index arrays count in are distinct (item, version) pairs, and
`rows` still are the distinct items: an ID vector is of an item, content is of what it was at that time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contracts.errors import InvalidInput
from contracts.features import align_histories, gap_buckets
from training.data.interactions import TRAIN
from training.data.samples import Samples
from training.item_table import ItemTable
from training.models.items import ItemRows
from training.models.view import Requests


class BatchVersions(NamedTuple):
    """K distinct (item, version) pairs. content: row of the item table; items: place in the batch's rows."""

    content: npt.NDArray[np.int32]  # (K,)
    items: npt.NDArray[np.int64]  # (K,)


class Batch(NamedTuple):
    """B samples. rows: the distinct item numbers, 0 first; index arrays count in `content`, K item rows."""

    rows: npt.NDArray[np.int32]  # (K,), fewer than K where one item has several versions
    candidates: Tensor  # (B, N) int32
    candidate_mask: Tensor  # (B, N) bool
    behaviours: Tensor  # (B, T) int32, newest last
    behaviour_mask: Tensor  # (B, T) bool
    labels: Tensor  # (B, N) float32
    versions: BatchVersions | None = None
    gaps: Tensor | None = None  # (B, T) int32
    context: Tensor | None = None  # (B, C) int32
    context_values: Tensor | None = None  # (B, C) float32
    query_codes: Tensor | None = None  # (B, D) int8
    query_inv_norm: Tensor | None = None  # (B, M) float32

    @property
    def content(self) -> npt.NDArray[np.int32]:
        """(K,) rows of the item table."""
        return self.rows if self.versions is None else self.versions.content

    @property
    def items(self) -> npt.NDArray[np.int32]:
        """(K,) item numbers: rows of the ID table."""
        return self.rows if self.versions is None else self.rows[self.versions.items]

    @property
    def requests(self) -> Requests:
        """What a ranker is asked."""
        return Requests(
            candidates=self.candidates,
            behaviours=self.behaviours,
            behaviour_mask=self.behaviour_mask,
            gaps=self.gaps,
            context=self.context,
            context_values=self.context_values,
            query_codes=self.query_codes,
            query_inv_norm=self.query_inv_norm,
        )


def make_batch(
    samples: Samples,
    chosen: npt.NDArray[np.int64],
    history_length: int,
    items: ItemTable | None = None,
) -> Batch:
    """The samples `chosen`: (B,). N and T are those of the longest among them, T at least 1.

    items: needed where its content has versions: those that each sample's time saw, for candidates and
    behaviours alike, as serving reads them when it is asked.
    """
    mask = samples.candidate_mask[chosen]
    widest = max(1, int(mask.sum(1).max(initial=1)))  # candidates are left-aligned
    behaviours, times, behaviour_mask = _behaviours(samples, chosen, history_length)
    candidates = samples.candidates[chosen, :widest]
    asked = samples.timestamps[chosen]
    flat = np.concatenate([np.zeros(1, np.int32), candidates.ravel(), behaviours.ravel()])
    versions = None
    if items is None or items.index is None:
        rows, place = np.unique(flat, return_inverse=True)
    else:
        shown = np.concatenate([candidates, behaviours], axis=1)
        found = items.index.rows(shown, asked * 1000)
        content = np.concatenate(
            [np.zeros(1, np.int32), found[:, :widest].ravel(), found[:, widest:].ravel()]
        )
        span = len(items.codes)
        pairs, place = np.unique(flat.astype(np.int64) * span + content, return_inverse=True)
        rows, of_item = np.unique(pairs // span, return_inverse=True)
        versions = BatchVersions((pairs % span).astype(np.int32), of_item)
    place = place.astype(np.int32)
    context = samples.inputs.context(samples.users[chosen], samples.requests[chosen])
    query = samples.inputs.query(samples.requests[chosen])
    gaps = None if times is None else gap_buckets((asked[:, None] - times) * 1000, behaviour_mask)
    return Batch(
        rows=rows.astype(np.int32),
        candidates=torch.from_numpy(place[1 : 1 + candidates.size].reshape(candidates.shape)),
        candidate_mask=torch.from_numpy(np.ascontiguousarray(mask[:, :widest])),
        behaviours=torch.from_numpy(place[1 + candidates.size :].reshape(behaviours.shape)),
        behaviour_mask=torch.from_numpy(behaviour_mask),
        labels=torch.from_numpy(np.ascontiguousarray(samples.labels[chosen, :widest])),
        versions=versions,
        gaps=None if gaps is None else torch.from_numpy(gaps),
        context=None if context is None else torch.from_numpy(context[0]),
        context_values=None if context is None else torch.from_numpy(context[1]),
        query_codes=None if query is None else torch.from_numpy(query[0]),
        query_inv_norm=None if query is None else torch.from_numpy(query[1]),
    )


def _behaviours(
    samples: Samples, chosen: npt.NDArray[np.int64], history_length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64] | None, npt.NDArray[np.bool_]]:
    """Behaviours (B, T), their times in seconds where gaps are read (B, T), and the mask (B, T)."""
    starts, ends = samples.starts[chosen], samples.ends[chosen]
    if samples.skips is None:
        longest = max(1, min(history_length, int((ends - starts).max(initial=1))))
        behaviours, mask = align_histories(samples.liked, starts, ends, longest)
        if not samples.inputs.time_gaps or samples.liked_at is None:
            return behaviours, None, mask
        return behaviours, align_histories(samples.liked_at, starts, ends, longest)[0], mask
    skips = samples.skips[chosen]
    longest = max(1, min(history_length, int((ends - starts - (skips >= 0)).max(initial=1))))
    # one more, so that what is older than the one left out moves up by a place
    wide, wide_mask = align_histories(samples.liked, starts, ends, longest + 1)
    position = ends[:, None] - longest + np.arange(longest)[None, :]
    newer = position > skips[:, None]
    behaviours = np.where(newer, wide[:, 1:], wide[:, :-1])
    return behaviours, None, np.where(newer, wide_mask[:, 1:], wide_mask[:, :-1])


def gather(
    items: ItemTable,
    rows: npt.NDArray[np.int32],
    id_vectors: Tensor,
    id_known: npt.NDArray[np.bool_],
    id_evidence: npt.NDArray[np.float32],
    versions: BatchVersions | None = None,
) -> ItemRows:
    """What a ranker reads of a batch's `rows`, or of its `versions` where it has them: K item rows.

    id_vectors: float32 of `rows`, (rows, d); id_known: (I+1,) bool, which items have an ID row;
    id_evidence: (I+1,) float32, log1p of the training examples behind it.
    """
    content = rows
    if versions is not None:
        content, rows = versions.content, rows[versions.items]
        id_vectors = id_vectors[torch.from_numpy(versions.items)]
    elif items.index is not None:
        raise InvalidInput("versions", None, "must be given: the item table has versions")
    return ItemRows(
        codes=torch.from_numpy(items.codes[content]),
        inv_norm=torch.from_numpy(items.inv_norm[content]),
        attributes=torch.from_numpy(items.attributes[content]),
        id_vectors=id_vectors,
        id_known=torch.from_numpy(id_known[rows]),
        id_evidence=torch.from_numpy(id_evidence[rows]),
        attribute_values=torch.from_numpy(items.attribute_values[content]),
    )


def id_evidence(samples: Samples, size: int) -> npt.NDArray[np.float32]:
    """log1p of how often each item was a candidate in train: (size,) float32, size = I + 1.

    Counted whatever the label: the number of likes alone would tell a sample its own label. Rounded to the
    half precision of ID rows, which is what serving reads.
    """
    inside = (samples.splits == TRAIN)[:, None] & samples.candidate_mask
    counts = np.bincount(samples.candidates[inside], minlength=size)
    return np.log1p(counts).astype(np.float16).astype(np.float32)


def items_shown(samples: Samples, split: int, history_length: int, size: int) -> npt.NDArray[np.bool_]:
    """Rows of the item table that a split shows, as candidate or behaviour: (size,) bool, size = I + 1."""
    inside = samples.splits == split
    ends = samples.ends[inside]
    skipping = 0 if samples.skips is None else samples.skips[inside] >= 0
    starts = np.maximum(samples.starts[inside], ends - history_length - skipping)
    # positions of `liked` under a slice: +1 where one opens, -1 where it ends
    opened = np.bincount(starts, minlength=len(samples.liked) + 1)
    closed = np.bincount(ends, minlength=len(samples.liked) + 1)
    shown = np.zeros(size, dtype=bool)
    shown[samples.candidates[inside]] = True
    shown[samples.liked[np.cumsum(opened - closed)[:-1] > 0]] = True
    shown[0] = False
    return shown
