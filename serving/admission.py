"""Admission: refuse early and cheaply rather than queue without bound.

Two things are counted of what is in flight: rows, for memory, and predicted seconds of graph runs, for time.
A row is one candidate or behaviour: a request of 2,000 candidates weighs as much as 100 of 20.

| priority | rows that may be in flight | waits for          | longest predicted wait |
| -------- | -------------------------- | ------------------ | ---------------------- |
| low      | half of the limit          | all                | half of the limit      |
| normal   | the limit                  | normal and high    | the limit              |
| high     | a quarter more             | high alone         | the limit              |
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from contracts.errors import Overloaded
from contracts.request import PRIORITIES, Priority

RETRY_AFTER_S = 1.0
_NAMED = b'"priority"'
_ROWS = {"low": 0.5, "normal": 1.0, "high": 1.25}
_WAIT = {"low": 0.5, "normal": 1.0, "high": 1.0}
RANK: dict[Priority, int] = {priority: rank for rank, priority in enumerate(PRIORITIES)}


class Admission:
    """Rows in flight, at most `limit`, and what newcomers would wait, at most `max_wait_s`.

    Both may be let go of from any thread.
    """

    def __init__(
        self,
        limit: int,
        workers: int = 1,
        max_wait_s: float = float("inf"),
        lag_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """workers: graph runs at the same time; lag_s: how late the event loop is now."""
        self.limit = limit
        self._workers, self._max_wait_s, self._lag_s = workers, max_wait_s, lag_s
        self._in_flight, self._runs = 0, 0
        self._backlog_s = [0.0] * len(PRIORITIES)
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def wait_s(self) -> float:
        """What a newcomer of normal priority waits before its graph runs, as predicted."""
        return self.wait_of("normal")

    def wait_of(self, priority: Priority) -> float:
        """Those of its own priority and above are before it."""
        return sum(self._backlog_s[RANK[priority] :]) / self._workers

    def check(self, priority: Priority = "normal") -> None:
        """Overloaded where nobody of this priority would be admitted now: asked before a request is read."""
        wait_s, lag_s, most_s = self.wait_of(priority), self._lag_s(), self._max_wait_s * _WAIT[priority]
        if wait_s + lag_s > most_s:
            raise Overloaded(
                f"requests wait {wait_s * 1e3:.0f} ms for a worker and {lag_s * 1e3:.0f} ms for the event "
                f"loop, the limit is {most_s * 1e3:.0f} ms",
                RETRY_AFTER_S,
            )

    def check_unread(self, body: bytes) -> None:
        """`check` before a JSON body is parsed: one that names no priority has the normal one."""
        if _NAMED not in body:
            self.check()

    def enter(self, rows: int, priority: Priority = "normal") -> None:
        """Count `rows` in, or raise Overloaded. With nothing in flight any priority may have the limit."""
        with self._lock:
            most = int(self.limit * _ROWS[priority])
            if self._in_flight + rows > (most if self._in_flight else self.limit):
                raise Overloaded(
                    f"{self._in_flight} rows in flight, {rows} more exceed the limit of {most}",
                    RETRY_AFTER_S,
                )
            self._in_flight += rows

    def leave(self, rows: int) -> None:
        """Count `rows` out: to be called once for each `enter` that was admitted."""
        with self._lock:
            self._in_flight -= rows

    def begin(self, run_s: float, left_s: float, priority: Priority = "normal") -> None:
        """Count a run of so many predicted seconds in; Overloaded where it would end after its deadline.

        left_s: until the deadline. Without anybody before it a run is tried: predictions may be wrong.
        """
        with self._lock:
            wait_s = self.wait_of(priority) + self._lag_s()
            if self._runs and wait_s + run_s > left_s:
                raise Overloaded(
                    f"{wait_s * 1e3:.0f} ms of waiting and {run_s * 1e3:.0f} ms of work exceed the "
                    f"deadline in {left_s * 1e3:.0f} ms",
                    RETRY_AFTER_S,
                )
            self._runs += 1
            self._backlog_s[RANK[priority]] += run_s

    @contextlib.contextmanager
    def aside(self, run_s: float, priority: Priority = "normal") -> Iterator[None]:
        """A run that was begun holds nobody up while it waits for something else itself."""
        self._add(-run_s, priority)
        try:
            yield
        finally:
            self._add(run_s, priority)

    def _add(self, run_s: float, priority: Priority) -> None:
        with self._lock:
            rank = RANK[priority]
            self._backlog_s[rank] = max(0.0, self._backlog_s[rank] + run_s)

    def end(self, run_s: float, priority: Priority = "normal") -> None:
        """Count a run out: to be called once for each `begin` that was admitted."""
        with self._lock:
            self._runs -= 1
            rank = RANK[priority]
            self._backlog_s[rank] = max(0.0, self._backlog_s[rank] - run_s)
            if not self._runs:  # rounding
                self._backlog_s = [0.0] * len(PRIORITIES)
