from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.calibration import UNCALIBRATED, Calibration, calibration_from_json
from contracts.errors import InvalidInput

LOGITS = np.array([-1e4, -30, -2, -0.5, 0, 0.25, 3, 30, 1e4])


def test_without_a_change_the_score_is_the_plain_sigmoid() -> None:
    assert UNCALIBRATED.changes_nothing
    middle = LOGITS[1:-1]
    assert np.allclose(UNCALIBRATED.scores(middle), 1 / (1 + np.exp(-middle)), rtol=1e-12)
    assert UNCALIBRATED.scores(LOGITS)[[0, -1]].tolist() == [0, 1]


@given(
    st.floats(0.05, 20),
    st.floats(-10, 10),
    st.floats(1e-4, 1),
    st.floats(-8, 8),
)
def test_the_sampling_correction_is_the_formula(
    scale: float, shift: float, rate: float, logit: float
) -> None:
    q = float(Calibration(scale, shift).scores(np.array([logit]))[0])
    p = float(Calibration(scale, shift, rate).scores(np.array([logit]))[0])
    assert p == pytest.approx(q / (q + (1 - q) / rate), rel=1e-6)
    assert Calibration(scale, shift, rate).offset == shift + math.log(rate)


def test_the_ranking_stays() -> None:
    inside = LOGITS[1:-1]
    for calibration in (Calibration(0.1, 3, 0.01), Calibration(1.1, -2)):
        assert (np.diff(calibration.scores(inside)) > 0).all()


def test_json_gives_it_back() -> None:
    calibration = Calibration(0.75, -1.125, 0.05)
    assert calibration_from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    with pytest.raises(KeyError):
        calibration_from_json({"scale": 1.0})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ((0.0,), "scale"),
        ((-1.0,), "scale"),
        ((math.inf,), "scale"),
        ((math.nan,), "scale"),
        ((1.0, math.nan), "shift"),
        ((1.0, 0.0, 0.0), "negative_sampling_rate"),
        ((1.0, 0.0, 1.5), "negative_sampling_rate"),
        ((1.0, 0.0, math.nan), "negative_sampling_rate"),
    ],
)
def test_what_cannot_be_used_is_refused(wrong: tuple[float, ...], named: str) -> None:
    with pytest.raises(InvalidInput, match=f"calibration.{named}"):
        Calibration(*wrong)
