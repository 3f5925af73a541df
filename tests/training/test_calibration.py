from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from contracts.calibration import UNCALIBRATED, Calibration
from contracts.errors import InvalidInput
from training.calibration import _LEAST_SCALE, fit_calibration
from training.metrics import auc
from training.reliability import reliability

Floats = npt.NDArray[np.float64]


def drawn(
    rows: int, scale: float = 0.6, shift: float = -1.5, seed: int = 0
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Labels of sigmoid(scale * logit + shift): a ranker that is overconfident and promises too much."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2.0, rows)
    return (rng.random(rows) < Calibration(scale, shift).scores(logits)).astype(np.int64), logits


def penalised(labels: npt.ArrayLike, logits: Floats, scale: float, shift: float) -> float:
    y, z = np.asarray(labels), scale * logits + shift
    nats = -np.where(y == 1, -np.logaddexp(0, -z), -np.logaddexp(0, z)).sum()
    return float(nats + (scale - 1) ** 2 / 2 + shift**2 / 200)


def test_a_planted_map_is_found() -> None:
    fitted = fit_calibration(*drawn(200_000))
    assert fitted.scale == pytest.approx(0.6, abs=0.01)
    assert fitted.shift == pytest.approx(-1.5, abs=0.02)


@pytest.mark.parametrize("rows", [6, 40, 5_000])
@pytest.mark.parametrize("stretch", [1.0, 1e-3, 50.0])
def test_no_neighbour_is_better(rows: int, stretch: float) -> None:
    labels, logits = drawn(rows, seed=3)
    logits = logits * stretch
    labels[:2] = (0, 1)
    fitted = fit_calibration(labels, logits)
    least = penalised(labels, logits, fitted.scale, fitted.shift)
    for scale in (-1e-3, 0, 1e-3):
        for shift in (-1e-3, 0, 1e-3):
            if fitted.scale * (1 + scale) >= _LEAST_SCALE:
                beside = penalised(labels, logits, fitted.scale * (1 + scale), fitted.shift + shift)
                assert least <= beside + 1e-9 * max(1.0, least)


def test_on_rows_it_has_not_seen_predicted_is_observed() -> None:
    fitted = fit_calibration(*drawn(40_000))
    labels, logits = drawn(40_000, seed=1)
    before = reliability(labels, UNCALIBRATED.scores(logits))
    after = reliability(labels, fitted.scores(logits))
    assert before.ece is not None
    assert after.ece is not None
    assert before.ece > 0.15
    assert after.ece < 0.015
    assert before.ratio is not None
    assert before.ratio > 1.5
    assert after.ratio == pytest.approx(1, abs=0.03)
    assert auc(labels, fitted.scores(logits)) == auc(labels, logits)


def test_a_few_rows_that_a_threshold_separates_stay_finite() -> None:
    fitted = fit_calibration([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0])
    assert 1 < fitted.scale < 3
    assert abs(fitted.shift) < 1e-6
    lonely = fit_calibration([0, 1], [5.0, 5.0])
    assert 0 < lonely.scale < 2
    assert np.isfinite(lonely.shift)


def test_a_ranker_that_ranks_the_wrong_way_round_is_not_turned() -> None:
    labels, logits = drawn(5_000)
    fitted = fit_calibration(labels, -logits)
    assert fitted.scale == _LEAST_SCALE
    assert fitted.scores(-logits).mean() == pytest.approx(labels.mean(), rel=1e-2)


def test_dropped_negatives_are_put_back() -> None:
    """A tenth of the negatives is kept; the served score is right for a log that has them all."""
    rate = 0.1
    labels, logits = drawn(200_000, shift=-3.0)
    kept = (labels == 1) | (np.random.default_rng(5).random(len(labels)) < rate)
    fitted = fit_calibration(labels[kept], logits[kept], rate)
    assert fitted.negative_sampling_rate == rate
    whole = reliability(labels, fitted.scores(logits))
    assert whole.ratio == pytest.approx(1, abs=0.03)
    sampled = reliability(labels[kept], fitted.scores(logits[kept]), negative_sampling_rate=rate)
    assert sampled.ratio == pytest.approx(1, abs=0.01)  # the same, told from the sample alone
    assert sampled.ece == pytest.approx(whole.ece, abs=5e-3)
    uncorrected = Calibration(fitted.scale, fitted.shift)
    assert (reliability(labels, uncorrected.scores(logits)).ratio or 0) > 3


@pytest.mark.parametrize(
    ("labels", "logits", "match"),
    [
        ([0, 1], [1.0], "must have the shape"),
        ([0, 2], [1.0, 2.0], "must be 0 or 1"),
        ([0, 1], [1.0, np.inf], "must be finite"),
        ([1, 1], [1.0, 2.0], "needs positives and negatives"),
        ([], [], "needs positives and negatives"),
    ],
)
def test_what_cannot_be_fitted_is_refused(labels: list[int], logits: list[float], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        fit_calibration(labels, logits)
