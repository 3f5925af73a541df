"""What a call's metrics are told: fine, the error's code, or that it was our fault."""

from __future__ import annotations

import pytest

from contracts.errors import Overloaded
from doors.outcome import outcome_of


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, "fine"),
        (Overloaded("full"), "overloaded"),
        (KeyError("id"), "invalid"),
        (OSError(), "internal"),
    ],
)
def test_every_end_is_told_once(error: Exception | None, told: str) -> None:
    ends: list[tuple[str, float]] = []

    def call() -> None:
        with outcome_of(lambda outcome, seconds: ends.append((outcome, seconds)), "fine", (KeyError,)):
            if error is not None:
                raise error

    if error is None:
        call()
    else:
        with pytest.raises(type(error)):
            call()
    [(outcome, seconds)] = ends
    assert outcome == told
    assert seconds >= 0
