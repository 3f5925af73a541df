"""User-paired bootstrap: how sure a metric, or a difference of two rankers, is of the users it was taken on.

Users are drawn with replacement; a row counts as often as its user was drawn. Every ranker is measured on
the same draws, so a difference is taken draw by draw and the users' own spread cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput, TooLarge
from training.evaluation import sigmoid

METRICS = ("auc", "gauc_user", "gauc_request", "logloss")
MAX_USERS = 8_192  # of a dense matrix of pairs, 512 MiB
_BLOCK = 512  # rows that are compared with one another

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Users:
    """The test users and their bootstrap draws.

    index: (R,) int64 of each row's user; multiplicity: (draws, U) float64, how often each was drawn.
    """

    index: npt.NDArray[np.int64]
    multiplicity: Doubles

    @classmethod
    def drawn(cls, users: npt.NDArray[np.int32], draws: int, seed: int) -> Users:
        """users: (R,) of the rows."""
        if draws < 1:
            raise InvalidInput("draws", draws, "must be at least 1")
        distinct, index = np.unique(users, return_inverse=True)
        rng = np.random.default_rng(seed)
        shares = np.full(len(distinct), 1 / len(distinct))
        return cls(index.astype(np.int64), rng.multinomial(len(distinct), shares, draws).astype(np.float64))


def bootstrap(
    labels: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    requests: npt.NDArray[np.int64],
    users: Users,
    inside: npt.NDArray[np.bool_],
) -> dict[str, Doubles]:
    """The metrics of the rows `inside` on every draw: by METRICS (1 + draws,), first that of all users once.

    All arrays but users.multiplicity: (R,). NaN where a draw has one class only.
    """
    y, s, owner, request = labels[inside], logits[inside], users.index[inside], requests[inside]
    weights = np.vstack([np.ones((1, users.multiplicity.shape[1])), users.multiplicity])
    return {
        "auc": weighted_auc(y, s, owner, weights),
        "gauc_user": _grouped(y, s, owner, owner, weights),
        "gauc_request": _grouped(y, s, request, owner, weights),
        "logloss": _mean_loss(y, s, owner, weights),
    }


def weighted_auc(
    labels: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    owners: npt.NDArray[np.int64],
    weights: Doubles,
) -> Doubles:
    """AUC of rows that count as often as their owner: labels, scores, owners (R,), weights (D, U) -> (D,).

    With A[u, v] the pairs that u's positives win over v's negatives, the AUC under multiplicities m is
    m' A m / (m' p)(m' n), p and n the rows of each user by class: rows are compared once for all draws.
    """
    users = weights.shape[1]
    if users > MAX_USERS:
        raise TooLarge("users", users, MAX_USERS, "users")
    positive = labels == 1
    won = np.einsum("du,du->d", weights @ _won_pairs(positive, scores, owners, users), weights)
    sides = [weights @ np.bincount(owners[side], minlength=users) for side in (positive, ~positive)]
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Doubles = won / (sides[0] * sides[1])
    return out


def _won_pairs(
    positive: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float32],
    owners: npt.NDArray[np.int64],
    users: int,
) -> Doubles:
    """A: (U, U), ties count one half.

    Rows are sorted and cut into blocks that no tie crosses: of two blocks all pairs go one way, within
    one they are compared. A run of ties longer than a block is a block of its own.
    """
    order = np.argsort(scores, kind="stable")
    s, y, owner = scores[order], positive[order], owners[order]
    starts = _block_starts(s)
    block = np.zeros(len(s), dtype=np.int64)
    block[starts[1:]] = 1
    block = np.cumsum(block)
    cells = block * users + owner
    shape = (len(starts), users)
    won, lost = (np.bincount(cells[side], minlength=shape[0] * users).reshape(shape) for side in (y, ~y))
    below = (np.cumsum(lost, axis=0) - lost).astype(np.float64)
    out: Doubles = won.T.astype(np.float64) @ below
    ends = np.append(starts, len(s))[1:]
    for number, (at, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if s[at] == s[end - 1]:
            out += 0.5 * np.outer(won[number], lost[number])
            continue
        up, down = np.flatnonzero(y[at:end]) + at, np.flatnonzero(~y[at:end]) + at
        share = (s[up, None] > s[down]) + 0.5 * (s[up, None] == s[down])
        pairs = owner[up, None] * users + owner[down]
        out += np.bincount(pairs.ravel(), share.ravel(), minlength=users * users).reshape(users, users)
    return out


def _block_starts(s: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Sorted scores -> where blocks of about _BLOCK rows begin: at the first row of a run of ties."""
    if not len(s):
        return np.zeros(0, dtype=np.int64)
    first = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])
    long = np.diff(np.append(first, len(s))) > _BLOCK
    alone = np.concatenate([first[long], first[1:][long[:-1]]])  # a long run, and the run behind it
    regular = first[np.r_[True, first[1:] // _BLOCK != first[:-1] // _BLOCK]]
    return np.unique(np.concatenate([regular, alone])).astype(np.int64)


def _grouped(
    labels: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    groups: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    weights: Doubles,
) -> Doubles:
    """GAUC: a group belongs to one owner, so its AUC is the same in every draw. -> (D,)."""
    area, size, owner = group_aucs(labels, scores, groups, owners)
    users = weights.shape[1]
    totals = weights @ np.bincount(owner, size * area, minlength=users)
    counts = weights @ np.bincount(owner, size, minlength=users)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Doubles = totals / counts
    return out


def group_aucs(
    labels: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    groups: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
) -> tuple[Doubles, Doubles, npt.NDArray[np.int64]]:
    """Per group of both classes: its AUC, rows and owner, (G,) each. Ties count one half."""
    if not len(labels):
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    order = np.lexsort((scores, groups))
    y, s, g = labels[order] == 1, scores[order], groups[order]
    _, heads, dense = np.unique(g, return_index=True, return_inverse=True)
    first = np.flatnonzero(np.r_[True, (dense[1:] != dense[:-1]) | (s[1:] != s[:-1])])
    won = np.add.reduceat(y.astype(np.float64), first)
    lost = np.add.reduceat((~y).astype(np.float64), first)
    group_of = dense[first]
    before = np.cumsum(lost) - lost
    negatives = np.bincount(group_of, lost)
    positives = np.bincount(group_of, won)
    below = before - (np.cumsum(negatives) - negatives)[group_of] + 0.5 * lost
    area = np.bincount(group_of, won * below)
    mixed = (positives > 0) & (negatives > 0)
    size = (positives + negatives)[mixed]
    aucs: Doubles = area[mixed] / (positives * negatives)[mixed]
    owner: npt.NDArray[np.int64] = owners[order][heads][mixed]
    return aucs, size.astype(np.float64), owner


def _mean_loss(
    labels: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    owners: npt.NDArray[np.int64],
    weights: Doubles,
) -> Doubles:
    p = np.clip(sigmoid(logits), 1e-7, 1 - 1e-7)
    losses = -np.where(labels == 1, np.log(p), np.log1p(-p))
    users = weights.shape[1]
    counts = weights @ np.bincount(owners, minlength=users).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Doubles = (weights @ np.bincount(owners, losses, minlength=users)) / counts
    return out
