from __future__ import annotations

import pytest

from param_server.breaker import LEAST_CALLS, Breaker, BreakerLimits, BreakerOpen, State

LIMITS = BreakerLimits(failures=3, share=0.5, window_s=10.0, silence_s=0.1, open_s=1.0, longest_open_s=3.0)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("redis://host", LIMITS, clock, lambda: 0.5)


def state(breaker: Breaker) -> State:
    return breaker.state


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(breaker.begin(), OSError("gone"))


def test_it_opens_after_failures_in_a_row_and_says_for_how_long(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 2)
    breaker.succeeded(breaker.begin())
    fail(breaker, 2)
    assert state(breaker) == "closed"
    fail(breaker)
    assert (state(breaker), breaker.opened) == ("open", 1)
    clock.now += 0.25
    with pytest.raises(
        BreakerOpen, match=r"redis://host does not answer, breaker open for another 0\.8 s \(last: gone\)"
    ):
        breaker.begin()


def test_it_opens_when_too_many_of_the_window_failed(breaker: Breaker, clock: Clock) -> None:
    for _ in range(LEAST_CALLS // 2 - 1):
        breaker.succeeded(breaker.begin())
        fail(breaker)
    breaker.succeeded(breaker.begin())
    assert state(breaker) == "closed"
    fail(breaker)
    assert state(breaker) == "open"


def test_failures_that_have_left_the_window_do_not_count(breaker: Breaker, clock: Clock) -> None:
    for _ in range(LEAST_CALLS):
        fail(breaker)
        breaker.succeeded(breaker.begin())
        clock.now += 1.0  # so at most ten of each are in the window of ten seconds
        if state(breaker) == "open":
            pytest.fail("fewer calls than say anything")


def test_one_call_tries_and_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 1.0
    probe = breaker.begin()
    assert state(breaker) == "half-open"
    with pytest.raises(BreakerOpen, match="tried by another call"):
        breaker.begin()
    breaker.succeeded(probe)
    assert state(breaker) == "closed"
    fail(breaker, 2)  # counted from zero
    assert state(breaker) == "closed"


def test_a_try_that_fails_opens_it_for_twice_as_long_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    for expected_s in (2.0, 3.0, 3.0):
        clock.now += 3.0
        fail(breaker)
        assert state(breaker) == "open"
        clock.now += expected_s - 0.01
        with pytest.raises(BreakerOpen):
            breaker.check()
        clock.now += 0.02
        breaker.check()
    breaker.succeeded(breaker.begin())
    fail(breaker, 3)
    clock.now += 1.0  # once closed, it begins with the short time again
    breaker.check()


def test_an_impatient_caller_proves_nothing_while_others_are_answered(breaker: Breaker, clock: Clock) -> None:
    for _ in range(50):
        impatient, other = breaker.begin(), breaker.begin()
        clock.now += 0.05
        breaker.abandoned(impatient)
        breaker.succeeded(other)
    assert state(breaker) == "closed"


def test_callers_who_give_up_on_a_silent_server_open_it(breaker: Breaker, clock: Clock) -> None:
    calls = 0
    while state(breaker) == "closed":
        call = breaker.begin()
        clock.now += 0.05
        breaker.abandoned(call)
        calls += 1
    assert calls == 4  # silent for 0.1 s from the second on
    with pytest.raises(BreakerOpen, match=r"last: no reply for 0\.\d s"):
        breaker.begin()


def test_a_try_that_is_given_up_leaves_the_next_call_to_try(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    breaker._silent_since = None
    clock.now += 1.0
    probe = breaker.begin()
    breaker.abandoned(probe)  # at once: it says nothing
    assert state(breaker) == "open"
    breaker.succeeded(breaker.begin())
    assert state(breaker) == "closed"


def test_late_outcomes_do_not_count(breaker: Breaker, clock: Clock) -> None:
    late = breaker.begin()
    fail(breaker, 3)
    breaker.failed(late, OSError("gone"))
    assert breaker.opened == 1
    breaker.succeeded(late)
    assert state(breaker) == "open"


def test_processes_do_not_try_at_the_same_moment(clock: Clock) -> None:
    waits = []
    for drawn in (0.0, 0.5, 1.0):
        breaker = Breaker("s", LIMITS, clock, lambda drawn=drawn: drawn)  # type: ignore[misc]
        fail(breaker, 3)
        waits.append(breaker._until - clock.now)
    assert waits == pytest.approx([0.8, 1.0, 1.2])
