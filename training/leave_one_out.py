"""Content vectors in a space of co-likes, each trained item's as if the item were new.

A weighted ridge maps features x_i (training.feature_blocks) to targets y_i (training.co_likes):

    A = sum_i w_i x_i x_i' + ridge I        w_i = likes_i / (likes_i + evidence)
    f(x) = x' A^-1 sum_i w_i x_i y_i'       new items
    h_i = w_i x_i' A^-1 x_i                 leverage
    f_-i(x_i) = (f(x_i) - h_i y_i) / (1 - h_i)     trained items: exactly a fit without row i

Row i is not all that an item's likes touch: they are also column i of the lift, in the targets of its
neighbours. y = L B for a fixed basis B (W, d), so without column i f_-i changes by
-(sum_j a_ij L_ji) B_i, a_ij = w_j x_i' A^-1 x_j / (1 - h_i): exact too. What remains of an item's likes
is its share in the basis B and in the popularities of E.

Cost: O(I D^2 + D^3) and the passes of CoLikes, the own column's one O(I^2 D); D features, about 2,200 for
MiniLM, MobileNetV2 and 512 landmarks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput, TooLarge
from training.co_likes import CoLikes, Likes
from training.feature_blocks import Doubles, FeatureBlock, FeatureMap, Mask, fit_feature_map

MAX_FEATURES = 8192  # A is dense: 512 MiB


@dataclass(frozen=True)
class LeaveOneOutConfig:
    """shrinkage: co-likes that both counts and expectations are given; evidence: likes at which an item
    weighs one half; spectrum: power of the lift's eigenvalues in the target; landmarks, width: of the joint
    kernel, 0 landmarks for none; own_column: leave an item's likes in its neighbours' targets."""

    shrinkage: float = 5.0
    user_exponent: float = 0.5
    ridge: float = 1.0
    evidence: float = 30.0
    spectrum: float = 0.25
    landmarks: int = 512
    width: float = 1.0
    own_column: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ridge", "width"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidInput(name, getattr(self, name), "must be above 0")
        if not (np.isfinite(self.evidence) and self.evidence >= 0):
            raise InvalidInput("evidence", self.evidence, "must not be negative")
        if not 0 <= self.spectrum <= 2:
            raise InvalidInput("spectrum", self.spectrum, "must be 0 to 2")
        if self.landmarks < 0:
            raise InvalidInput("landmarks", self.landmarks, "must not be negative")


@dataclass(frozen=True, eq=False)
class ContentMap:
    """Features of any item -> its vector as a new one. weights: (D, dim) float64, linear in each block."""

    features: FeatureMap
    weights: Doubles

    def vectors(self, blocks: Mapping[str, tuple[npt.NDArray[np.float32], Mask]]) -> npt.NDArray[np.float32]:
        """By block name values (K, d), present (K,) -> (K, dim) unit rows, zero where nothing is known."""
        rows, known = self.features.rows(blocks)
        return _unit(rows @ self.weights, known)


@dataclass(frozen=True)
class Fit:
    """What was counted and measured; cosines are weighted means over trained items, to their targets.

    zero_blocks: blocks that say nothing of any trained item; without_features, without_likes: items.
    """

    items: int
    trained: int
    new: int
    without_features: int
    without_likes: int
    zero_blocks: tuple[str, ...]
    features: int
    cosine_leave_one_out: float
    cosine_in_sample: float
    largest_leverage: float
    seconds: float


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """vectors: (I, dim) float32 unit rows, zero where nothing is known: trained items left out, the others
    by `content`; in_sample: (I, dim), all by `content`, to compare with and never to train a ranker on."""

    vectors: npt.NDArray[np.float32]
    in_sample: npt.NDArray[np.float32]
    trained: Mask
    content: ContentMap
    fit: Fit


def leave_one_out_vectors(
    blocks: Sequence[FeatureBlock],
    likes: Likes,
    new: Mask,
    *,
    dim: int = 128,
    config: LeaveOneOutConfig | None = None,
) -> LeaveOneOut:
    """Content vectors of I items in one space.

    blocks: features of all I items; likes: of the train split, none of a new item; new: (I,) bool.
    Directions that the lift lacks are zero columns. Equal arguments give equal vectors.
    Raises InvalidInput that names block and row, TooLarge above MAX_FEATURES.
    """
    config, started = config or LeaveOneOutConfig(), time.perf_counter()
    _check(blocks, likes, new, dim)
    lift = CoLikes(likes, shrinkage=config.shrinkage, user_exponent=config.user_exponent)
    features = fit_feature_map(
        blocks, lift.rows, landmarks=config.landmarks, width=config.width, seed=config.seed
    )
    all_rows, known = features.rows({b.name: (b.values, b.present) for b in blocks})
    trained = lift.rows
    basis = _basis(lift, dim, config)
    targets = lift.times(basis)
    counts = likes.counts[trained]
    weights = (counts / (counts + config.evidence)).astype(np.float64)
    ridge = WeightedRidge(all_rows[trained], targets, weights, config.ridge)
    left_out = ridge.left_out()
    if not config.own_column:
        left_out -= ridge.own_column(lift)[:, None] * basis
    content = ContentMap(features, ridge.coefficients)
    in_sample = _unit(all_rows @ ridge.coefficients, known)
    vectors = in_sample.copy()
    vectors[trained] = _unit(left_out, known[trained])
    unit_targets = _unit(targets, np.ones(len(targets), dtype=np.bool_))
    is_trained = np.zeros(len(new), dtype=np.bool_)
    is_trained[trained] = True
    fit = Fit(
        items=len(new),
        trained=len(trained),
        new=int(new.sum()),
        without_features=int((~known).sum()),
        without_likes=int((~new & (likes.counts == 0)).sum()),
        zero_blocks=tuple(n for n, s in features.slices().items() if not all_rows[trained, s].any()),
        features=all_rows.shape[1],
        cosine_leave_one_out=_mean_cosine(vectors[trained], unit_targets, weights),
        cosine_in_sample=_mean_cosine(in_sample[trained], unit_targets, weights),
        largest_leverage=float(ridge.leverage.max()),
        seconds=time.perf_counter() - started,
    )
    return LeaveOneOut(vectors, in_sample, is_trained, content, fit)


class WeightedRidge:
    """min over M of sum_i w_i |y_i - x_i M|^2 + ridge |M|^2. coefficients: M (D, d); leverage: (W,)."""

    def __init__(self, rows: Doubles, targets: Doubles, weights: Doubles, ridge: float) -> None:
        """rows: (W, D), targets: (W, d), weights: (W,) above 0."""
        self._rows, self._targets = rows, targets
        self._weighted: Doubles = rows * weights[:, None]
        gram: Doubles = rows.T @ self._weighted
        gram[np.diag_indices_from(gram)] += ridge
        self._solved = np.asarray(np.linalg.solve(gram, rows.T).T, dtype=np.float64)  # (W, D): x_i' A^-1
        self.coefficients: Doubles = self._solved.T @ (targets * weights[:, None])
        self.leverage: Doubles = np.einsum("wd,wd->w", self._solved, self._weighted)

    def left_out(self) -> Doubles:
        """(W, d): each row's prediction by the fit without it."""
        fitted = self._rows @ self.coefficients
        return (fitted - self.leverage[:, None] * self._targets) / (1 - self.leverage)[:, None]

    def own_column(self, lift: CoLikes) -> Doubles:
        """(W,): sum_j a_ij L_ji, an item's own column in its left-out prediction."""
        crossed = lift.times(self._weighted)  # L is symmetric with a zero diagonal, so j = i adds nothing
        out: Doubles = np.einsum("wd,wd->w", self._solved, crossed) / (1 - self.leverage)
        return out


def _basis(lift: CoLikes, dim: int, config: LeaveOneOutConfig) -> Doubles:
    """B (W, dim): lift @ B has the lift's directions with eigenvalues to the power of `spectrum`."""
    values, vectors = lift.directions(dim, config.seed)
    basis: Doubles = np.zeros((len(lift), dim))
    basis[:, : len(values)] = vectors * np.abs(values) ** (config.spectrum - 1)
    return basis


def _unit(rows: Doubles, known: Mask) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    some = known[:, None] & (lengths > 0)
    return np.where(some, rows / np.where(some, lengths, 1.0), 0.0).astype(np.float32)


def _mean_cosine(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], weights: Doubles) -> float:
    return float(np.average(np.einsum("wd,wd->w", left, right), weights=weights))


def _check(blocks: Sequence[FeatureBlock], likes: Likes, new: Mask, dim: int) -> None:
    if not 1 <= dim <= 1040:
        raise InvalidInput("dim", dim, "must be 1 to 1040")
    if new.shape != (likes.size,) or new.dtype != np.bool_:
        raise InvalidInput("new", new.shape, f"must be ({likes.size},) bool")
    leaked = new[likes.items[(likes.items >= 0) & (likes.items < likes.size)]]
    if leaked.any():
        raise InvalidInput("likes", int(leaked.sum()), "holds likes of new items")
    for block in blocks:
        if len(block.values) != likes.size:
            raise InvalidInput(f"blocks.{block.name}", len(block.values), f"must hold {likes.size} items")
    wide = sum(block.values.shape[1] for block in blocks if block.values.ndim == 2)
    if wide > MAX_FEATURES:
        raise TooLarge("blocks", wide, MAX_FEATURES, "features")
