"""How long a run of a graph takes, told from its shape and from the runs before it."""

from __future__ import annotations

import threading

_NEWEST = 0.02  # weight of one run: about the last fifty count
_SAME_SIZE = 0.01  # variance of sizes, relative to their mean squared, below which they tell no slope


class RunTime:
    """A line through seconds over size, fitted with weights that fade. Size: candidates x (1 + behaviours).

    Where all runs have had one size, time is taken to be proportional to it. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._size = self._seconds = self._variance = self._covariance = 0.0

    def observe(self, candidates: int, behaviours: int, seconds: float) -> None:
        """One run has ended."""
        with self._lock:
            self._runs += 1
            weight = max(_NEWEST, 1 / self._runs)
            dx, dy = candidates * (1 + behaviours) - self._size, seconds - self._seconds
            self._size += weight * dx
            self._seconds += weight * dy
            self._variance = (1 - weight) * (self._variance + weight * dx * dx)
            self._covariance = (1 - weight) * (self._covariance + weight * dx * dy)

    def predict(self, candidates: int, behaviours: int) -> float:
        """Seconds; 0 where no run is known yet."""
        with self._lock:
            if not self._size:
                return 0.0
            steepest = self._seconds / self._size
            slope = steepest
            if self._variance > _SAME_SIZE * self._size * self._size:
                slope = min(steepest, max(0.0, self._covariance / self._variance))
            return self._seconds + slope * (candidates * (1 + behaviours) - self._size)
