"""Samples -> batches over unique item rows: a batch costs what it holds, whatever the catalogue's size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contracts.features import align_histories
from training.data.samples import Samples
from training.item_table import ItemTable
from training.models.items import ItemRows


class Batch(NamedTuple):
    """B samples. rows: the K distinct rows of the item table, 0 first; index arrays count in `rows`."""

    rows: npt.NDArray[np.int32]  # (K,)
    candidates: Tensor  # (B, N) int32
    candidate_mask: Tensor  # (B, N) bool
    behaviours: Tensor  # (B, T) int32, newest last
    behaviour_mask: Tensor  # (B, T) bool
    labels: Tensor  # (B, N) float32


def make_batch(samples: Samples, chosen: npt.NDArray[np.int64], history_length: int) -> Batch:
    """The samples `chosen`: (B,). N and T are those of the longest among them, T at least 1."""
    mask = samples.candidate_mask[chosen]
    widest = max(1, int(mask.sum(1).max(initial=1)))  # candidates are left-aligned
    starts, ends = samples.starts[chosen], samples.ends[chosen]
    longest = max(1, min(history_length, int((ends - starts).max(initial=1))))
    behaviours, behaviour_mask = align_histories(samples.liked, starts, ends, longest)
    candidates = samples.candidates[chosen, :widest]
    flat = np.concatenate([np.zeros(1, np.int32), candidates.ravel(), behaviours.ravel()])
    rows, place = np.unique(flat, return_inverse=True)
    place = place.astype(np.int32)
    return Batch(
        rows=rows.astype(np.int32),
        candidates=torch.from_numpy(place[1 : 1 + candidates.size].reshape(candidates.shape)),
        candidate_mask=torch.from_numpy(np.ascontiguousarray(mask[:, :widest])),
        behaviours=torch.from_numpy(place[1 + candidates.size :].reshape(behaviours.shape)),
        behaviour_mask=torch.from_numpy(behaviour_mask),
        labels=torch.from_numpy(np.ascontiguousarray(samples.labels[chosen, :widest])),
    )


def gather(
    items: ItemTable, rows: npt.NDArray[np.int32], id_vectors: Tensor, id_known: npt.NDArray[np.bool_]
) -> ItemRows:
    """What a ranker reads of the K rows `rows`.

    id_vectors: (K, d) float32 of these rows; id_known: (I+1,) bool, which items have an ID row.
    """
    return ItemRows(
        codes=torch.from_numpy(items.codes[rows]),
        inv_norm=torch.from_numpy(items.inv_norm[rows]),
        attributes=torch.from_numpy(items.attributes[rows]),
        id_vectors=id_vectors,
        id_known=torch.from_numpy(id_known[rows]),
    )


def items_shown(samples: Samples, split: int, history_length: int, size: int) -> npt.NDArray[np.bool_]:
    """Rows of the item table that a split shows, as candidate or behaviour: (size,) bool, size = I + 1."""
    inside = samples.splits == split
    ends = samples.ends[inside]
    starts = np.maximum(samples.starts[inside], ends - history_length)
    # positions of `liked` under a slice: +1 where one opens, -1 where it ends
    opened = np.bincount(starts, minlength=len(samples.liked) + 1)
    closed = np.bincount(ends, minlength=len(samples.liked) + 1)
    shown = np.zeros(size, dtype=bool)
    shown[samples.candidates[inside]] = True
    shown[samples.liked[np.cumsum(opened - closed)[:-1] > 0]] = True
    shown[0] = False
    return shown
