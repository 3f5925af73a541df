"""What is known of an item before anyone liked it, as blocks of features that a linear map reads.

A block becomes unit rows: (x - mean) / |x - mean|, times its weight, zero where the item lacks it. Blocks
marked `joint` also meet in one radial kernel, exp(-|x - x'|^2 / 2 width^2) over their unit rows side by
side, by Nystroem features k(x, Z) K(Z, Z)^(-1/2) of landmarks Z: interactions such as genre times year.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_RANK = 1e-6  # of the largest eigenvalue: below it a landmark repeats others


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """values: (I, d) float32, anything where present: (I,) bool is False; weight: of the unit rows."""

    name: str
    values: npt.NDArray[np.float32]
    present: Mask
    weight: float = 1.0
    centred: bool = True
    joint: bool = False


@dataclass(frozen=True, eq=False)
class Scaling:
    """How one block's values become rows. mean: (d,)."""

    mean: Doubles
    weight: float

    def rows(self, values: npt.NDArray[np.float32], present: Mask) -> Doubles:
        """(K, d), (K,) bool -> (K, d), rows of length `weight`, or zero."""
        out = np.where(present[:, None], values, 0).astype(np.float64)
        out[present] -= self.mean
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        flat = lengths <= 1e-9 * (1 + np.linalg.norm(self.mean))  # the mean itself says nothing
        return np.where(flat, 0.0, out * (self.weight / np.where(flat, 1.0, lengths)))


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Fitted on some items, without their likes. landmarks: (Z, sum of joint d), root: (Z, z)."""

    blocks: dict[str, Scaling]
    joint: tuple[str, ...]
    landmarks: Doubles
    root: Doubles
    width: float

    def rows(self, blocks: Mapping[str, tuple[npt.NDArray[np.float32], Mask]]) -> tuple[Doubles, Mask]:
        """By name (values (K, d), present (K,)) -> features (K, D), the last one 1; known (K,) bool.

        known: some block says something. Every block that the map was fitted with must be given.
        """
        if set(blocks) != set(self.blocks):
            raise InvalidInput("blocks", sorted(blocks), f"must be {sorted(self.blocks)}")
        parts = {}
        for name, scaling in self.blocks.items():
            values, present = blocks[name]
            check_values(name, values, present)
            if values.shape[1] != len(scaling.mean):
                raise InvalidInput(f"blocks.{name}", values.shape, f"must have {len(scaling.mean)} columns")
            parts[name] = scaling.rows(values, present)
        count = {len(part) for part in parts.values()}
        if len(count) != 1:
            raise InvalidInput("blocks", sorted(count), "must hold equally many items")
        plain = np.hstack(list(parts.values()))
        known = np.any(plain != 0, axis=1)
        side = [parts[name] for name in self.joint]
        radial = self._radial(np.hstack(side)) if side else np.zeros((len(plain), 0))
        return np.hstack([plain, radial, np.ones((len(plain), 1))]), known

    def slices(self) -> dict[str, slice]:
        """Where each block lies in the features; behind them come the joint kernel's and the constant."""
        ends = np.cumsum([len(s.mean) for s in self.blocks.values()]).tolist()
        return {
            n: slice(end - len(s.mean), end) for (n, s), end in zip(self.blocks.items(), ends, strict=True)
        }

    def _radial(self, rows: Doubles) -> Doubles:
        radial: Doubles = kernel(rows, self.landmarks, self.width) @ self.root
        radial[~np.any(rows != 0, axis=1)] = 0
        return radial


def fit_feature_map(
    blocks: Sequence[FeatureBlock], fitted: npt.NDArray[np.int64], *, landmarks: int, width: float, seed: int
) -> FeatureMap:
    """blocks: of I items; fitted: (W,) rows whose means and landmarks count."""
    if len({block.name for block in blocks}) != len(blocks) or not blocks:
        raise InvalidInput(
            "blocks", [block.name for block in blocks], "must be at least one, each named once"
        )
    scalings = {}
    for block in blocks:
        check_values(block.name, block.values, block.present)
        if not (np.isfinite(block.weight) and block.weight >= 0):
            raise InvalidInput(f"blocks.{block.name}.weight", block.weight, "must be finite and not negative")
        there = fitted[block.present[fitted]]
        mean: Doubles = np.zeros(block.values.shape[1])
        if block.centred and len(there):
            mean = block.values[there].mean(axis=0, dtype=np.float64)
        scalings[block.name] = Scaling(mean, block.weight)
    joint = tuple(block.name for block in blocks if block.joint)
    empty = FeatureMap(scalings, (), np.zeros((0, 0)), np.zeros((0, 0)), width)
    if not joint or not landmarks:
        return empty
    sides = [scalings[b.name].rows(b.values[fitted], b.present[fitted]) for b in blocks if b.joint]
    distinct = np.unique(np.hstack(sides), axis=0)
    distinct = distinct[distinct.any(axis=1)]
    if not len(distinct):
        return empty
    chosen = np.sort(np.random.default_rng(seed).permutation(len(distinct))[:landmarks])
    points = distinct[chosen]
    values, vectors = np.linalg.eigh(kernel(points, points, width))
    kept = values > _RANK * values.max()
    return FeatureMap(scalings, joint, points, vectors[:, kept] / np.sqrt(values[kept]), width)


def kernel(left: Doubles, right: Doubles, width: float) -> Doubles:
    """exp(-|x - y|^2 / 2 width^2): (K, d), (Z, d) -> (K, Z)."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    out: Doubles = np.exp(-np.maximum(squares, 0) / (2 * width**2))
    return out


def check_values(name: str, values: npt.NDArray[np.float32], present: Mask) -> None:
    """InvalidInput names the block and the first item that is wrong."""
    if values.ndim != 2 or present.shape != values.shape[:1] or present.dtype != np.bool_:
        raise InvalidInput(f"blocks.{name}", values.shape, "must be (I, d) beside (I,) bool")
    wrong = present & ~np.isfinite(values).all(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InvalidInput(f"blocks.{name}[{row}]", values[row], "holds a value that is not finite")
