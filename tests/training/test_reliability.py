from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contracts.calibration import Calibration
from contracts.errors import InvalidInput
from tests.training import tiny
from training.reliability import BINS, BeforeAfter, CalibrationReport, by_group, reliability
from training.reliability_plot import write_reliability

RNG = np.random.default_rng(0)
P = np.round(RNG.random(900) ** 2, 2)  # with ties
Y = (RNG.random(900) < P**0.7).astype(np.int64)


def by_hand(place: npt.NDArray[np.int64], weight: npt.NDArray[np.float64]) -> float:
    """Sum over bins of share of the weight * |mean predicted - mean observed|."""
    total = 0.0
    for b in set(place.tolist()):
        inside = place == b
        share = weight[inside].sum() / weight.sum()
        total += share * abs(
            np.average(P[inside], weights=weight[inside]) - np.average(Y[inside], weights=weight[inside])
        )
    return total


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_the_figures_are_their_definitions(rate: float) -> None:
    weight = np.where(Y == 1, 1.0, 1 / rate)
    measured = reliability(Y, P, negative_sampling_rate=rate)
    middle = np.array([(p > P).sum() + ((p == P).sum() - 1) / 2 for p in P])
    assert measured.ece == pytest.approx(by_hand((BINS * middle / len(P)).astype(np.int64), weight))
    assert measured.ece_width == pytest.approx(
        by_hand(np.minimum((P * BINS).astype(np.int64), BINS - 1), weight)
    )
    assert measured.ratio == pytest.approx((weight * P).sum() / Y.sum())
    assert measured.brier == pytest.approx((weight * (P - Y) ** 2).sum() / weight.sum())
    assert measured.rows == 900


def test_bins_of_equal_count_hold_the_same_share_whatever_the_scores() -> None:
    p = np.linspace(0.001, 0.02, 300)  # all in the first bin of equal width
    measured = reliability(np.arange(300) % 10 == 0, p, bins=10)
    assert np.allclose(measured.curve.share, 0.1)
    assert (np.diff(measured.curve.predicted) > 0).all()
    assert len(measured.curve.observed) == 10


def test_the_order_of_rows_does_not_matter() -> None:
    order = RNG.permutation(len(P))
    one, other = reliability(Y, P), reliability(Y[order], P[order])
    for name, value in one.figures().items():
        assert other.figures()[name] == pytest.approx(value, rel=1e-12)
    assert np.allclose(one.curve.observed, other.curve.observed)


def test_few_rows_one_class_or_none() -> None:
    single = reliability([1], [0.25])
    assert (single.ece, single.ece_width, single.ratio, single.brier) == (0.75, 0.75, 0.25, 0.5625)
    assert reliability([0, 0], [0.25, 0.5]).ratio is None
    nothing = reliability([], [])
    assert nothing.figures() == {"rows": 0, "ece": None, "ece_width": None, "ratio": None, "brier": None}
    assert len(nothing.curve.share) == 0
    closed = reliability([0, 1], [0.0, 1.0])
    assert (closed.ece, closed.ece_width) == (0, 0)


@pytest.mark.parametrize(
    ("labels", "probabilities", "bins", "match"),
    [
        ([0, 1], [0.5], 5, "probabilities"),
        ([0, 1], [0.5, 1.5], 5, r"in \[0, 1\]"),
        ([0, 1], [0.5, np.nan], 5, r"in \[0, 1\]"),
        ([0, 1], [0.5, 0.5], 0, "bins"),
    ],
)
def test_what_is_no_probability_is_refused(
    labels: list[int], probabilities: list[float], bins: int, match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        reliability(labels, probabilities, bins=bins)


def test_groups_are_all_warm_and_new() -> None:
    samples = tiny.samples()
    chosen = np.flatnonzero(samples.splits == 2)
    new = np.concatenate([[True], tiny.NEW])
    logits = RNG.normal(size=(len(chosen), samples.candidates.shape[1])).astype(np.float32)
    groups = by_group(logits, samples, chosen, new, Calibration(0.5, -0.5))
    rows = {name: both.after.rows for name, both in groups.items()}
    assert rows["all"] == int(samples.candidate_mask[chosen].sum())
    assert rows["warm"] + rows["new"] == rows["all"]
    assert min(rows.values()) > 0
    mask = samples.candidate_mask[chosen]
    wanted = reliability(samples.labels[chosen][mask], 1 / (1 + np.exp(0.5 - 0.5 * logits[mask])))
    assert groups["all"].after.ece == pytest.approx(wanted.ece, abs=1e-6)
    report = CalibrationReport(Calibration(0.5, -0.5), groups, groups)
    document = json.loads(json.dumps(report.to_json()))
    assert document["scale"] == 0.5
    assert len(document["test"]["new"]["after"]["curve"]["share"]) == len(groups["new"].after.curve.share)
    figures = json.loads(json.dumps(report.figures()))
    assert "curve" not in figures["test"]["all"]["before"]
    assert figures["validation"]["warm"]["before"]["rows"] == rows["warm"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot_is_the_same_every_time_and_shows_both(suffix: str, tmp_path: Path) -> None:
    both = BeforeAfter(reliability(Y, np.minimum(P * 2, 1)), reliability(Y, P))
    files = [tmp_path / f"{n}.{suffix}" for n in range(2)]
    for file in files:
        write_reliability(both, "Test split", file)
    assert files[0].read_bytes() == files[1].read_bytes()
    other = tmp_path / f"other.{suffix}"
    write_reliability(BeforeAfter(both.after, both.after), "Test split", other)
    assert other.read_bytes() != files[0].read_bytes()
    if suffix == "png":
        with Image.open(files[0]) as picture:
            assert picture.size == (600, 600)
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    else:
        text = files[0].read_text()
        assert "<svg" in text
        assert "font-face" not in text  # letters are drawn, nothing is fetched
        assert "/work" not in text


def test_a_split_of_nothing_is_drawn_too(tmp_path: Path) -> None:
    nothing = reliability([], [])
    write_reliability(BeforeAfter(nothing, nothing), "New items", tmp_path / "new.svg")
    assert (tmp_path / "new.svg").stat().st_size > 1_000
