"""Admission by rows: refuse early and cheaply rather than queue without bound.

A row is one candidate or behaviour: a request of 2,000 candidates weighs as much as 100 of 20.
"""

from __future__ import annotations

import threading

from contracts.errors import Overloaded

RETRY_AFTER_S = 1.0


class Admission:
    """Rows in flight, at most `limit`. Rows may be released from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        return self._in_flight

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
