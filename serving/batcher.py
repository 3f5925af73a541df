"""Admission: refuse early and cheaply rather than queue without bound.

Two things are counted of what is in flight: rows, for memory, and predicted seconds of graph runs, for time.
A row is one candidate or behaviour: a request of 2,000 candidates weighs as much as 100 of 20.
"""

from __future__ import annotations

import threading

from contracts.errors import Overloaded

RETRY_AFTER_S = 1.0


class Admission:
    """Rows in flight, at most `limit`, and what newcomers would wait, at most `max_wait_s`.

    Both may be let go of from any thread.
    """

    def __init__(self, limit: int, workers: int = 1, max_wait_s: float = float("inf")) -> None:
        """workers: graph runs at the same time."""
        self.limit = limit
        self._workers, self._max_wait_s = workers, max_wait_s
        self._in_flight, self._runs, self._backlog_s = 0, 0, 0.0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def wait_s(self) -> float:
        """What a newcomer waits before its graph runs, as predicted."""
        return self._backlog_s / self._workers

    def check(self) -> None:
        """Overloaded where nobody would be admitted now: asked before a request is even read."""
        if self.wait_s > self._max_wait_s:
            raise Overloaded(
                f"requests wait {self.wait_s * 1e3:.0f} ms, the limit is {self._max_wait_s * 1e3:.0f} ms",
                RETRY_AFTER_S,
            )

    def enter(self, rows: int) -> None:
        """Count `rows` in, or raise Overloaded."""
        with self._lock:
            if self._in_flight + rows > self.limit:
                raise Overloaded(
                    f"{self._in_flight} rows in flight, {rows} more exceed the limit of {self.limit}",
                    RETRY_AFTER_S,
                )
            self._in_flight += rows

    def leave(self, rows: int) -> None:
        """Count `rows` out: to be called once for each `enter` that was admitted."""
        with self._lock:
            self._in_flight -= rows

    def begin(self, run_s: float, left_s: float) -> None:
        """Count a run of so many predicted seconds in; Overloaded where it would end after its deadline.

        left_s: until the deadline. Without anybody before it a run is tried: predictions may be wrong.
        """
        with self._lock:
            if self._runs and self.wait_s + run_s > left_s:
                raise Overloaded(
                    f"{self.wait_s * 1e3:.0f} ms of waiting and {run_s * 1e3:.0f} ms of work exceed the "
                    f"deadline in {left_s * 1e3:.0f} ms",
                    RETRY_AFTER_S,
                )
            self._runs += 1
            self._backlog_s += run_s

    def end(self, run_s: float) -> None:
        """Count a run out: to be called once for each `begin` that was admitted."""
        with self._lock:
            self._runs -= 1
            self._backlog_s = max(0.0, self._backlog_s - run_s) if self._runs else 0.0
