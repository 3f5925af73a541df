"""What users' behaviours alone give to the graph, kept in memory while the same behaviours come again.

A state is given only where every byte of its history is the one that it was made of: a score never differs
from the one without the cache.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from contracts.features import Inputs
from contracts.user_side import UserSide

_OVERHEAD = 4_096  # bytes of a state beside its arrays' own: their headers, a dict, the key
_LARGE = ("codes", "id_codes")  # compared once the rest is found: inverse norms and scales tell them apart
_IMPLIED = "behaviours"  # the numbers of the history's own rows


class History(NamedTuple):
    """Every byte that a state depends on. Within a generation arrays have one width, so equal bytes are
    equal arrays of equal length."""

    generation: str
    small: bytes
    large: bytes


def history_of(generation: str, arrays: Inputs) -> History:
    """arrays: of UserSide.history."""
    small = b"".join(x.tobytes() for name, x in arrays.items() if name not in (*_LARGE, _IMPLIED))
    large = b"".join(arrays[name].tobytes() for name in _LARGE if name in arrays)
    return History(generation, small, large)


class StateCounts(NamedTuple):
    """Since the start; resident states and their bytes now."""

    hits: int
    misses: int
    evictions: int
    resident: int
    resident_bytes: int


@dataclass(frozen=True, eq=False)
class _Kept:
    large: bytes
    state: Inputs
    size: int


class UserStates:
    """The states of all generations of a process, least recently used first to go. Thread-safe."""

    def __init__(self, limit: int) -> None:
        """limit: bytes of all states, their histories included."""
        self._limit = limit
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get(self, history: History) -> Inputs | None:
        """The state of this history, None where it is not kept."""
        key = history[:2]
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.large != history.large:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return kept.state

    def put(self, history: History, state: Inputs) -> None:
        """Keep a state; what was used longest ago gives way. One larger than the limit is not kept."""
        arrays = sum(array.nbytes for array in state.values())
        size = _OVERHEAD + len(history.small) + len(history.large) + arrays
        if size > self._limit:
            return
        key = history[:2]
        with self._lock:
            self._drop(key)
            self._kept[key] = _Kept(history.large, state, size)
            self._bytes += size
            while self._bytes > self._limit:
                self._drop(next(iter(self._kept)))
                self._evictions += 1

    def keep(self, generations: Collection[str]) -> None:
        """Drop the states of all other generations."""
        with self._lock:
            for key in [key for key in self._kept if key[0] not in generations]:
                self._drop(key)

    def counts(self) -> StateCounts:
        with self._lock:
            return StateCounts(self._hits, self._misses, self._evictions, len(self._kept), self._bytes)

    def _drop(self, key: tuple[str, bytes]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size


@dataclass(frozen=True, eq=False)
class CachedUserSide:
    """One generation's user side, its states among all others'."""

    side: UserSide
    states: UserStates
    generation: str

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """As the whole graph's. Two threads that miss the same state both compute it."""
        arrays = self.side.history(inputs)
        history = history_of(self.generation, arrays)
        state = self.states.get(history)
        if state is None:
            state = self.side.state(arrays)
            self.states.put(history, state)
        return self.side.scores(inputs, state, outputs)
