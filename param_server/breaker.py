"""A circuit breaker in front of one server: where it does not answer, calls fail at once instead of waiting.

closed -> open after `failures` calls in a row failed, or the share `share` of at least LEAST_CALLS within
`window_s`. open -> half-open when its time is over: one call goes through, all others still fail at once. It
answers -> closed; it fails -> open again, for twice as long. A reply is a success whatever it says.

A call that its caller gave up proves nothing by itself, since the caller may only be impatient. It is a
failure where no call had a reply for `silence_s`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from redis.exceptions import ConnectionError as RedisConnectionError

LEAST_CALLS = 20  # below so many, a share says nothing
_SLOTS = 10  # of the window
_JITTER = 0.2  # so that the processes of a fleet do not probe at once

State = Literal["closed", "half-open", "open"]


class BreakerOpen(RedisConnectionError):
    """The call was not made: the server did not answer those before it."""


@dataclass(frozen=True)
class BreakerLimits:
    """When a breaker opens, and for how long; in seconds, shares 0 to 1."""

    failures: int = 10
    share: float = 0.5
    window_s: float = 10.0
    silence_s: float = 0.1
    open_s: float = 0.5
    longest_open_s: float = 5.0


class Breaker:
    """Of one server. Not for several threads. server: a name that may be shown."""

    def __init__(
        self,
        server: str,
        limits: BreakerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """clock: seconds; draw: a number from 0 to 1, for the jitter."""
        self._server = server
        self._limits = limits or BreakerLimits()
        self._clock, self._draw = clock, draw
        self._state: State = "closed"
        self._epoch = 0  # of the state; outcomes of calls that began in another one do not count
        self._until = 0.0
        self._open_s = self._limits.open_s
        self._last = ""
        self._in_a_row = 0
        self._silent_since: float | None = None
        self._calls, self._failures = [0] * _SLOTS, [0] * _SLOTS
        self._slot = 0
        self.opened = 0

    @property
    def state(self) -> State:
        """Open until a call probes, also when the time for that has come."""
        return self._state

    def check(self) -> None:
        """Nothing where a call may be made now, else BreakerOpen, which says for how long."""
        if self._state == "closed":
            return
        if self._state == "half-open":
            raise BreakerOpen(f"{self._server} is being tried by another call, breaker half-open{self._last}")
        left = self._until - self._clock()
        if left > 0:
            raise BreakerOpen(
                f"{self._server} does not answer, breaker open for another {left:.1f} s{self._last}"
            )

    def begin(self) -> int:
        """A call begins -> what to give back with its outcome. Raises as check()."""
        self.check()
        if self._state == "open":
            self._enter("half-open")
        if self._silent_since is None:
            self._silent_since = self._clock()
        return self._epoch

    def succeeded(self, call: int) -> None:
        """The server replied."""
        self._silent_since = None
        if call != self._epoch:
            return
        if self._state == "half-open":
            self._open_s = self._limits.open_s
            self._calls, self._failures = [0] * _SLOTS, [0] * _SLOTS
            self._enter("closed")
        self._in_a_row = 0
        self._count(failed=False)

    def failed(self, call: int, error: BaseException) -> None:
        """The server could not be reached, or did not reply in time."""
        if call != self._epoch:
            return
        self._last = f" (last: {error})" if str(error) else ""
        if self._state == "half-open":
            self._open_s = min(2 * self._open_s, self._limits.longest_open_s)
            self._open()
            return
        self._in_a_row += 1
        self._count(failed=True)
        calls, failures = sum(self._calls), sum(self._failures)
        if self._in_a_row >= self._limits.failures or (
            calls >= LEAST_CALLS and failures >= self._limits.share * calls
        ):
            self._open()

    def abandoned(self, call: int) -> None:
        """The caller no longer waits."""
        silent_s = 0.0 if self._silent_since is None else self._clock() - self._silent_since
        if silent_s >= self._limits.silence_s:
            self.failed(call, TimeoutError(f"no reply for {silent_s:.1f} s"))
        elif call == self._epoch and self._state == "half-open":
            self._enter("open")  # its time is over: the next call probes

    def _open(self) -> None:
        self.opened += 1
        self._until = self._clock() + self._open_s * (1 + _JITTER * (2 * self._draw() - 1))
        self._in_a_row = 0
        self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._epoch += 1

    def _count(self, *, failed: bool) -> None:
        slot = int(self._clock() / self._limits.window_s * _SLOTS)
        for passed in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            self._calls[passed % _SLOTS] = self._failures[passed % _SLOTS] = 0
        self._slot = slot
        self._calls[slot % _SLOTS] += 1
        self._failures[slot % _SLOTS] += failed
