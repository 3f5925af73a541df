"""Which items the same users like: counts -> shrunk log lift -> the leading directions of it.

    C_ij   = sum of r_u over the users who like both,  r_u = likes_u ** -user_exponent,  C_ii = 0
    E_ij   = m_i m_j / sum(m),  m_i = sum_j C_ij       what popularity alone would give
    lift   = log((C_ij + s) / (E_ij + s))              0 where there is no evidence either way

The lift is dense and symmetric. It is kept where it fits (MAX_KEPT_ITEMS), else counted anew in blocks of
rows on every pass: memory O(block), time per pass O(sum of likes_u ** 2), bounded by MAX_LIKES a user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.dataset import Dataset
from training.data.interactions import TRAIN

MAX_LIKES = 512  # of one user, the latest ones: bounds the pairs
MAX_KEPT_ITEMS = 8192  # 256 MiB of float32
MAX_DENSE_ITEMS = 4096  # of an exact eigendecomposition, seconds
_CELLS = 1 << 24  # of one block of rows
_PAIRS = 1 << 22  # counted at once
_PASSES = 4  # of subspace iteration
_OVERSAMPLING = 32

Doubles = npt.NDArray[np.float64]
Block = tuple[slice, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Likes:
    """P distinct pairs, sorted by user. users, items: (P,) int64; size: I, items of the catalogue."""

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    size: int

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(I,) users who like each item."""
        return np.bincount(self.items, minlength=self.size)


def train_likes(dataset: Dataset, new: npt.NDArray[np.bool_], max_likes: int = MAX_LIKES) -> Likes:
    """Positives of the train split, without new items: (I,) bool; of each user the latest max_likes."""
    size = len(dataset.catalogue)
    if new.shape != (size,):
        raise InvalidInput("new", new.shape, f"must have shape ({size},)")
    if max_likes < 2:
        raise InvalidInput("max_likes", max_likes, "must be at least 2")
    log = dataset.interactions
    rows = np.flatnonzero((log.labels == 1) & (log.splits == TRAIN) & ~new[log.items])[::-1]
    keys = log.users[rows].astype(np.int64) * size + log.items[rows]
    latest = np.sort(np.unique(keys, return_index=True)[1])  # newest first
    users, items = log.users[rows[latest]].astype(np.int64), log.items[rows[latest]].astype(np.int64)
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    rank = np.arange(len(users)) - np.searchsorted(users, users)
    return Likes(users[rank < max_likes], items[rank < max_likes], size)


class CoLikes:
    """The lift of the W items that have a co-like. rows: (W,) int64, their catalogue rows, ascending."""

    def __init__(self, likes: Likes, *, shrinkage: float = 5.0, user_exponent: float = 0.5) -> None:
        """shrinkage: s, in co-likes. InvalidInput where no user likes two items."""
        if not (np.isfinite(shrinkage) and shrinkage > 0):
            raise InvalidInput("shrinkage", shrinkage, "must be above 0")
        if not 0 <= user_exponent <= 2:
            raise InvalidInput("user_exponent", user_exponent, "must be 0 to 2")
        _check_likes(likes)
        _, user = np.unique(likes.users, return_inverse=True)
        per_user = np.bincount(user)
        rates: Doubles = per_user.astype(np.float64) ** -user_exponent
        marginal = np.bincount(likes.items, weights=(rates * (per_user - 1))[user], minlength=likes.size)
        self.rows = np.flatnonzero(marginal > 0)
        if not len(self.rows):
            raise InvalidInput("likes", len(likes.users), "must hold a user who likes two items")
        self._marginal = marginal[self.rows]
        pairs = float((per_user * (per_user - 1)).sum())
        self._shrinkage = shrinkage * float(marginal.sum()) / pairs  # in weighted co-likes
        place = np.zeros(likes.size, dtype=np.int64)
        place[self.rows] = np.arange(len(self.rows))
        kept = per_user[user] > 1
        self._items = place[likes.items[kept]]  # by user
        self._users = user[kept]
        self._rates = rates
        self._first = np.searchsorted(self._users, np.arange(len(per_user)))
        self._likes = np.bincount(self._users, minlength=len(per_user))
        self._order = np.argsort(self._items, kind="stable")  # events by item
        self._starts = np.searchsorted(self._items[self._order], np.arange(len(self.rows) + 1))
        self._kept: list[Block] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Block]:
        """Rows of the lift, (b, W) float32 each, in order."""
        if self._kept is not None:
            yield from self._kept
            return
        step = max(1, _CELLS // len(self))
        kept: list[Block] = []
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            block = rows, self._lift(rows)
            if len(self) <= MAX_KEPT_ITEMS:
                kept.append(block)
            yield block
        self._kept = kept or None

    def times(self, right: Doubles) -> Doubles:
        """lift @ right: (W, k) -> (W, k)."""
        out = np.empty((len(self), right.shape[1]))
        for rows, block in self.blocks():
            out[rows] = block @ right
        return out

    def directions(self, dim: int, seed: int = 0) -> tuple[Doubles, Doubles]:
        """Eigenvalues (k,) of largest magnitude first, and eigenvectors (W, k), k <= dim.

        Exact up to MAX_DENSE_ITEMS, above that seeded randomised subspace iteration. Values below
        1e-6 of the largest are left out. Signs are fixed: the largest entry of each vector is positive.
        """
        if dim < 1:
            raise InvalidInput("dim", dim, "must be at least 1")
        if len(self) <= MAX_DENSE_ITEMS:
            values, vectors = np.linalg.eigh(
                np.vstack([block for _, block in self.blocks()]).astype(np.float64)
            )
        else:
            width = min(len(self), dim + _OVERSAMPLING)
            basis = np.random.default_rng(seed).normal(size=(len(self), width))
            for _ in range(_PASSES):
                basis = np.linalg.qr(self.times(np.linalg.qr(basis)[0]))[0]
            values, small = np.linalg.eigh(basis.T @ self.times(basis))
            vectors = basis @ small
        order = np.argsort(-np.abs(values), kind="stable")[:dim]
        order = order[np.abs(values[order]) > 1e-6 * max(float(np.abs(values).max()), 1e-12)]
        vectors = vectors[:, order]
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
        return values[order], vectors * np.where(largest < 0, -1.0, 1.0)

    def _lift(self, rows: slice) -> npt.NDArray[np.float32]:
        expected = self._marginal[rows, None] * (self._marginal / self._marginal.sum())
        lift: npt.NDArray[np.float32] = self._counts(rows).astype(np.float32)
        lift += np.float32(self._shrinkage)
        lift /= (expected + self._shrinkage).astype(np.float32)
        np.log(lift, out=lift)
        lift[np.arange(len(lift)), np.arange(rows.start, rows.stop)] = 0
        return lift

    def _counts(self, rows: slice) -> Doubles:
        """(b, W): each like of an item of the block meets all likes of its user."""
        events = self._order[self._starts[rows.start] : self._starts[rows.stop]]
        ends = np.cumsum(self._likes[self._users[events]])
        counts = np.zeros((rows.stop - rows.start) * len(self))
        begin = 0
        while begin < len(events):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
            some, begin = events[begin:end], end
            users = self._users[some]
            lengths = self._likes[users]
            within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            others = self._items[np.repeat(self._first[users], lengths) + within]
            cells = np.repeat((self._items[some] - rows.start) * len(self), lengths) + others
            counts += np.bincount(cells, np.repeat(self._rates[users], lengths), minlength=len(counts))
        return counts.reshape(-1, len(self))


def _check_likes(likes: Likes) -> None:
    if likes.users.shape != likes.items.shape or likes.users.ndim != 1:
        raise InvalidInput("likes.users", likes.users.shape, f"must match items {likes.items.shape}")
    outside = (likes.items < 0) | (likes.items >= likes.size)
    if outside.any():
        raise InvalidInput("likes.items", int(likes.items[outside][0]), f"must be 0 to {likes.size - 1}")
    if (np.diff(likes.users) < 0).any():
        raise InvalidInput("likes.users", "unsorted", "must be sorted")
    keys = likes.users * likes.size + likes.items
    if len(np.unique(keys)) != len(keys):
        raise InvalidInput("likes", len(keys) - len(np.unique(keys)), "holds a pair twice")
