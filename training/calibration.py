"""Fit the map from a ranker's logit to the probability that it serves, on the validation split.

Order: the fit sees the log as it was sampled; the correction for negatives that the log dropped comes on top
and is given, not estimated (contracts.calibration).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.calibration import Calibration
from contracts.errors import InvalidInput

_SCALE_PRECISION = 1.0  # of the prior N(1, 1) on the scale
_SHIFT_PRECISION = 0.01  # of the prior N(0, 100) on the shift: base rates differ by far more than scales do
_LEAST_SCALE = 0.01  # the ranking must stay, so a fit that wants to turn it round ends here
_STEPS, _HALVINGS = 100, 40
_DECREMENT = 1e-12  # Newton's, in nats of the whole split: where the fit stops

_Floats = npt.NDArray[np.float64]


def fit_calibration(
    labels: npt.ArrayLike, logits: npt.ArrayLike, negative_sampling_rate: float = 1.0
) -> Calibration:
    """Platt scaling with priors, by Newton's method in float64.

    labels: (n,) 0/1; logits: (n,) finite, of the validation split; negative_sampling_rate: the share of its
    negatives that the log has kept.
    Least sum of cross entropies of sigmoid(scale * logit + shift), plus (scale - 1)^2 / 2 + shift^2 / 200,
    over scale >= 0.01: convex, so there is one answer, and a split of a few rows, or one that a threshold
    separates, stays finite and near the identity. Raises InvalidInput where a class is missing.
    """
    y, x = _checked(labels, logits)
    free = _least(y, x, np.array([1.0, 0.0]), np.array([True, True]))
    if free[0] < _LEAST_SCALE:  # convex: the least with the bound is then on it
        free = _least(y, x, np.array([_LEAST_SCALE, free[1]]), np.array([False, True]))
    return Calibration(float(free[0]), float(free[1]), negative_sampling_rate)


def _least(y: _Floats, x: _Floats, at: _Floats, moves: npt.NDArray[np.bool_]) -> _Floats:
    """Damped Newton from `at` (scale, shift) over the parameters that move: (2,)."""
    precision = np.array([_SCALE_PRECISION, _SHIFT_PRECISION])
    centre = np.array([1.0, 0.0])
    design = np.stack([x, np.ones_like(x)], axis=1)  # (n, 2)

    def loss(parameters: _Floats) -> float:
        z = design @ parameters
        away = parameters - centre
        return float((np.logaddexp(0, z) - y * z).sum() + (precision * away * away).sum() / 2)

    value = loss(at)
    for _ in range(_STEPS):
        z = design @ at
        p = np.exp(-np.logaddexp(0, -z))
        gradient = design.T @ (p - y) + precision * (at - centre)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(precision)
        step = np.zeros(2)
        step[moves] = np.linalg.solve(hessian[np.ix_(moves, moves)], gradient[moves])
        decrement = float(gradient @ step)
        if decrement <= _DECREMENT:
            break
        for halving in range(_HALVINGS):
            share = 0.5**halving
            tried = at - share * step
            lower = loss(tried)
            if lower <= value - 0.25 * share * decrement:
                at, value = tried, lower
                break
        else:
            break  # no step is better in float64: this is the least
    return at


def _checked(labels: npt.ArrayLike, logits: npt.ArrayLike) -> tuple[_Floats, _Floats]:
    y, x = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if y.ndim != 1 or x.shape != y.shape:
        raise InvalidInput("logits", x.shape, f"must have the shape of labels, one dimension, {y.shape}")
    if not np.isin(y, (0, 1)).all():
        raise InvalidInput("labels", float(y[~np.isin(y, (0, 1))][0]), "must be 0 or 1")
    if not np.isfinite(x).all():
        raise InvalidInput("logits", float(x[~np.isfinite(x)][0]), "must be finite")
    if not 0 < y.sum() < len(y):
        raise InvalidInput("labels", int(y.sum()), f"needs positives and negatives among its {len(y)}")
    return y, x
