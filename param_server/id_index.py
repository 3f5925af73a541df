"""Slots by id for many ids at once: a hash table in arrays, whose memory is read for all ids side by side.

A dict follows pointers id after id; with hundreds of thousands of ids it waits for memory each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import eq

import numpy as np
import numpy.typing as npt

_EMPTY, _DEAD = -1, -2
_FORGOTTEN = 8_192  # ids let go of at once

Slots = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class IdIndex:
    """At most `capacity` ids, each with a slot of its own below it.

    An id whose hash of 64 bits is another's too may not be found; a wrong slot is never given.
    """

    def __init__(self, capacity: int) -> None:
        bits = _bits(capacity)
        self._capacity = capacity
        self._mask, self._shift = (1 << bits) - 1, np.uint64(64 - bits)
        self._table = np.full(1 << bits, _EMPTY, np.int32)
        self._hashes = np.zeros(max(2, capacity), np.uint64)
        self._ids: list[str | None] = [None] * max(1, capacity)
        self._there = np.zeros(capacity, bool)
        self._filled = 0  # places of the table that are not empty

    @staticmethod
    def bytes_of(capacity: int) -> int:
        """What it takes beside the ids themselves: places of 4 bytes; hash, pointer and flag of each slot."""
        return (4 << _bits(capacity)) + capacity * (8 + 8 + 1)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._there))

    def find(self, ids: Sequence[str]) -> Slots:
        """K ids -> (K,) slots, -1 where absent."""
        hashes = _hashes(ids)
        at = (hashes >> self._shift).astype(np.int64)
        slots = self._table[at].astype(np.int64)
        left = np.flatnonzero((self._hashes[slots] != hashes) & (slots != _EMPTY) | (slots == _DEAD))
        while len(left):
            at[left] = (at[left] + 1) & self._mask
            there = self._table[at[left]]
            slots[left] = there
            other = (self._hashes[there] != hashes[left]) | (there == _DEAD)
            left = left[other & (there != _EMPTY)]
        named = map(self._ids.__getitem__, slots.tolist())
        slots[~np.fromiter(map(eq, ids, named), bool, len(ids))] = -1
        return slots

    def add(self, ids: Sequence[str], slots: Slots) -> None:
        """K distinct ids that are not there, each at its own free slot."""
        self._hashes[slots] = _hashes(ids)
        for item_id, slot in zip(ids, slots.tolist(), strict=True):
            self._ids[slot] = item_id
        self._there[slots] = True
        if 4 * (self._filled + len(ids)) > 3 * len(self._table):
            self._table[:] = _EMPTY  # what was removed is in the way
            self._filled = 0
            slots = self.slots()
        self._place(slots)

    def remove(self, slots: Slots) -> None:
        """The ids at these distinct slots, all taken."""
        at, left = self._at(slots), np.arange(len(slots))
        while len(left):
            here = self._table[at[left]] == slots[left]
            self._table[at[left[here]]] = _DEAD
            left = left[~here]
            at[left] = (at[left] + 1) & self._mask
        for slot in slots.tolist():
            self._ids[slot] = None
        self._there[slots] = False

    def slots(self) -> Slots:
        """All slots that are taken, rising."""
        return np.flatnonzero(self._there)

    def taken(self, slots: Slots) -> Slots:
        """Those of these slots that are taken."""
        return slots[self._there[slots]]

    def arrays(self) -> list[npt.NDArray[np.generic]]:
        """What its memory is made of, beside the ids."""
        return [self._table, self._hashes]

    def forgotten(self) -> Iterator[None]:
        """Let go of the ids in small steps; the index is of no use from the first one on."""
        while self._ids:
            del self._ids[-_FORGOTTEN:]
            yield

    def ids(self, slots: Slots) -> list[str]:
        """The ids at these slots, all taken."""
        return [item_id for item_id in map(self._ids.__getitem__, slots.tolist()) if item_id is not None]

    def _place(self, slots: Slots) -> None:
        self._filled += len(slots)
        at = self._at(slots)
        while len(slots):
            free = self._table[at] == _EMPTY
            self._table[at[free]] = slots[free]  # of several at one place the last stays
            lost = self._table[at] != slots
            slots, at = slots[lost], (at[lost] + 1) & self._mask

    def _at(self, slots: Slots) -> Slots:
        return (self._hashes[slots] >> self._shift).astype(np.int64)


def _bits(capacity: int) -> int:
    return max(3, (3 * capacity).bit_length())


def _hashes(ids: Sequence[str]) -> Hashes:
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)
