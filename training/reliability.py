"""How far a probability can be believed: predicted beside observed, in bins and in sum.

Rows count by weight: a positive 1, a negative 1 / w where a log kept the share w of its negatives, so that
figures are those of the whole log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.calibration import UNCALIBRATED, Calibration
from contracts.errors import InvalidInput
from training.data.samples import Samples
from training.evaluation import groups_of

BINS = 15  # Guo et al. 2017

_Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """The bins that hold a row, by rising score, each (bins,) float64: means, and the share of the weight."""

    predicted: _Floats
    observed: _Floats
    share: _Floats


@dataclass(frozen=True, eq=False)
class Reliability:
    """What some rows' probabilities are worth; None where the rows cannot give it.

    ece: expected calibration error, sum over bins of share * |mean predicted - mean observed|, in bins of
    equal count; ece_width: the same in bins of equal width; ratio: predicted sum / observed sum, 1 is right,
    2 promises twice what happens; brier: mean squared difference of probability and label; curve: of the
    bins of equal count.
    """

    rows: int
    ece: float | None
    ece_width: float | None
    ratio: float | None
    brier: float | None
    curve: Curve

    def figures(self) -> dict[str, float | int | None]:
        """Everything but the curve."""
        return {name: getattr(self, name) for name in ("rows", "ece", "ece_width", "ratio", "brier")}

    def to_json(self) -> dict[str, Any]:
        return {**self.figures(), "curve": {k: v.tolist() for k, v in self.curve._asdict().items()}}


class BeforeAfter(NamedTuple):
    """before: the plain sigmoid of the raw logit; after: the score that serves."""

    before: Reliability
    after: Reliability


ByGroup = dict[str, BeforeAfter]  # all, warm, new


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """validation: the split it was fitted on; test: the one that it has not seen."""

    calibration: Calibration
    validation: ByGroup
    test: ByGroup

    def figures(self) -> dict[str, Any]:
        """For the manifest: no curves."""
        return self.calibration.to_json() | {
            split: {g: {k: r.figures() for k, r in both._asdict().items()} for g, both in groups.items()}
            for split, groups in (("validation", self.validation), ("test", self.test))
        }

    def to_json(self) -> dict[str, Any]:
        """With the curves."""
        return self.calibration.to_json() | {
            split: {g: {k: r.to_json() for k, r in both._asdict().items()} for g, both in groups.items()}
            for split, groups in (("validation", self.validation), ("test", self.test))
        }


def reliability(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    negative_sampling_rate: float = 1.0,
    bins: int = BINS,
) -> Reliability:
    """labels: (n,) 0/1; probabilities: (n,) in [0, 1].

    Bins of equal width: [b / bins, (b + 1) / bins), the last one closed. Bins of equal count: a row is in
    bin floor(bins * rank / n) of its score's mid-rank from 0, so equal scores share a bin, in whatever order
    they come.
    """
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or p.shape != y.shape:
        raise InvalidInput("probabilities", p.shape, f"must have the shape of labels, {y.shape}")
    outside = ~((p >= 0) & (p <= 1))
    if outside.any():
        raise InvalidInput("probabilities", float(p[outside][0]), "must be in [0, 1]")
    if bins < 1:
        raise InvalidInput("bins", bins, "must be at least 1")
    if not len(y):
        return Reliability(0, None, None, None, None, Curve(*(np.zeros(0) for _ in Curve._fields)))
    weight = np.where(y == 1, 1.0, 1.0 / negative_sampling_rate)
    by_count = _binned(y, p, weight, _equal_count(p, bins), bins)
    by_width = _binned(y, p, weight, np.minimum((p * bins).astype(np.int64), bins - 1), bins)
    happened = float((weight * y).sum())
    return Reliability(
        rows=len(y),
        ece=_error(by_count),
        ece_width=_error(by_width),
        ratio=float((weight * p).sum()) / happened if happened else None,
        brier=float(np.average((p - y) ** 2, weights=weight)),
        curve=by_count,
    )


def by_group(
    logits: npt.NDArray[np.float32],
    samples: Samples,
    chosen: npt.NDArray[np.int64],
    new: npt.NDArray[np.bool_],
    calibration: Calibration,
) -> ByGroup:
    """Each group of training.evaluation.GROUPS. logits: (C, N) of the samples `chosen`; new: (I+1,) bool."""
    mask = samples.candidate_mask[chosen]
    labels, shown = samples.labels[chosen][mask], logits[mask]
    rate = calibration.negative_sampling_rate
    out = {}
    for group, inside in groups_of(samples, chosen, new).items():
        y, x = labels[inside], shown[inside]
        out[group] = BeforeAfter(
            *(reliability(y, c.scores(x), negative_sampling_rate=rate) for c in (UNCALIBRATED, calibration))
        )
    return out


def _equal_count(p: _Floats, bins: int) -> npt.NDArray[np.int64]:
    _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # mid-rank from 0
    return np.asarray(np.floor(bins * middle[place] / len(p)), dtype=np.int64)


def _binned(y: _Floats, p: _Floats, weight: _Floats, place: npt.NDArray[np.int64], bins: int) -> Curve:
    total = np.bincount(place, weights=weight, minlength=bins)
    held = total > 0
    predicted, observed = (
        np.bincount(place, weights=weight * values, minlength=bins)[held] / total[held] for values in (p, y)
    )
    return Curve(predicted, observed, total[held] / total.sum())


def _error(curve: Curve) -> float:
    return float((curve.share * np.abs(curve.predicted - curve.observed)).sum())
