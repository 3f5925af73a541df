from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from training.evaluation import GROUPS, METRICS
from training.results.runs import Settings
from training.results.statements import aim, cautions, earnings, interval
from training.results.summary import Figure, Gain, Line, Summary, _gain
from training.results.variants import VARIANTS


def _line(name: str, whole: float, new: float, gain: Gain | None = None) -> Line:
    values = {"all": whole, "warm": whole, "new": new}
    gains: Mapping[str, Mapping[str, Gain]] = {}
    if gain is not None:
        gains = {group: dict.fromkeys(METRICS, gain) for group in GROUPS}
    return Line(
        variant=VARIANTS[name],
        runs=6,
        vectors="loo",
        parameters=1,
        rows_per_s=1.0,
        figures={g: {m: Figure(values[g], 0.0) for m in METRICS} for g in GROUPS},
        over_nothing=gains,
        over_against=gains,
        by_draw={0: values, 1: values},
    )


def _summary(
    *lines: Line, seeds: int = 3, tuning: bool = False, spaces: dict[str, list[str]] | None = None
) -> Summary:
    return Summary(lines, Settings(tuning=tuning), seeds, 2, 10, 100, {0: 5}, {0: 2}, 1000, (), spaces or {})


@pytest.mark.parametrize(
    ("whole", "new", "word"), [(0.83, 0.78, "reached"), (0.83, 0.76, "missed"), (0.81, 0.78, "missed")]
)
def test_the_aim_needs_both(whole: float, new: float, word: str) -> None:
    text = aim(_summary(_line("best", whole, new)))[0]
    assert f"**{word}**" in text
    assert f"{new:.4f}" in text


def test_what_the_oracle_leaves() -> None:
    lines = (_line("nothing", 0.8, 0.70), _line("best", 0.8, 0.76), _line("oracle_best", 0.8, 0.78))
    assert "closes 75%" in aim(_summary(*lines))[1]


@pytest.mark.parametrize(
    ("mean", "error", "word"),
    [(0.01, 0.004, "earns"), (0.01, 0.006, "no sure change"), (-0.01, 0.004, "costs")],
)
def test_the_verdict_takes_two_standard_errors(mean: float, error: float, word: str) -> None:
    gain = Gain(mean, mean - 2 * error, mean + 2 * error, error, 4, 6)
    (sentence,) = earnings(_summary(_line("dmae", 0.8, 0.7, gain)))
    assert word in sentence
    assert "4 of 6 runs" in sentence


def test_a_gain_joins_the_users_spread_and_the_runs() -> None:
    rng = np.random.default_rng(0)
    users = 0.01 + 0.003 * rng.normal(size=(1, 1000))
    steady = _gain(np.hstack([[[0.01], [0.01]], np.vstack([users, users])]))
    assert steady.error == pytest.approx(0.003, rel=0.1)
    assert steady.low == pytest.approx(0.01 - 1.96 * 0.003, abs=5e-4)
    wild = _gain(np.hstack([[[0.03], [-0.01]], np.vstack([users, users])]))
    assert wild.mean == pytest.approx(0.01)
    assert wild.error == pytest.approx(np.hypot(0.003, 0.02), rel=0.1)
    assert (wild.positive, wild.verdict) == (1, 0)


def test_figures_read_without_the_leading_zero() -> None:
    assert interval(Gain(0.0123, -0.001, 0.02, 0.1, 1, 1)) == "+.0123 [-.0010, +.0200]"


def test_cautions() -> None:
    assert cautions(_summary()) == []
    assert "unproven" in cautions(_summary(seeds=1))[0]
    assert "Tuning" in cautions(_summary(tuning=True))[0]
    mixed = cautions(_summary(spaces={"draw 0": ["a", "b"], "draw 1": ["c"]}))
    assert len(mixed) == 1
    assert "draw 0 come from 2 spaces (a, b)" in mixed[0]
