"""The best candidates of an answer."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.scores import COLD, DEFAULT, ENCODED, MISSING, OK, STATUS_NAMES, Completeness, Scores, Timings


def answer(scores: list[float], statuses: list[int]) -> Scores:
    return Scores(
        "home",
        "g0",
        np.array(scores, np.float32),
        np.array(statuses, np.uint8),
        Completeness(0, 0, len(scores), len(scores)),
        Timings(0, 0, 0, 0, 0),
    )


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([0.1, 0.9, 0.5], 2, [1, 2]),
        ([0.5, 0.5, 0.9, 0.5], 9, [2, 0, 1, 3]),
        ([float("nan"), 0.0, float("nan"), 0.2], 9, [3, 1]),
        ([float("nan")], 1, []),
        ([], 3, []),
        ([0.1], 0, []),
    ],
)
def test_top(scores: list[float], count: int, expected: list[int]) -> None:
    assert answer(scores, [OK] * len(scores)).top(count) == expected


def test_statuses_in_words() -> None:
    statuses = [COLD, MISSING, OK, DEFAULT, ENCODED]
    assert answer([0] * 5, statuses).status_names() == ["cold", "missing", "ok", "default", "encoded"]
    assert len(STATUS_NAMES) == 6
