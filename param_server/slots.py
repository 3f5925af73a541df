"""Rows by id in one preallocated matrix; the least asked-for give way.

How often a resident row was asked for is counted beside it, what is not resident in a sketch. When all slots
are taken, a hand walks over a stretch of them, and a newcomer gets the slot of the least used row there if it
was asked for more often than that row. So a scan of ids that nobody asks for twice takes nobody's place.
Counts halve when ten questions per slot have been asked: what was popular yesterday does not stay for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from param_server.frequency import MOST, Counts, Frequency
from param_server.id_index import IdIndex, Slots

OVERHEAD = 208  # bytes of a row beside its own: an id of up to 36 characters, index entry, counters, sketch
_STRETCH = 8  # slots that the hand looks at for each that is wanted
_LEAST_STRETCH = 64
_HALVE_AFTER = 10  # questions per slot
_SKETCH = 4  # counters per slot in each row of the sketch
_FREED_BYTES = 4 << 20  # given back at once
_REMEMBERED = 16_384  # ids whose counts outlive a clear()

Flags = npt.NDArray[np.bool_]
Sequences = npt.NDArray[np.uint64]


class SlotTable:
    """`capacity` rows of `dtype`, absent ones too: such a row is zero and its flag says not found."""

    def __init__(self, capacity: int, dtype: np.dtype[np.void]) -> None:
        self.capacity = capacity
        self.dtype = dtype
        self.evictions = 0
        self._rows = np.zeros((capacity, dtype.itemsize), np.uint8)
        self._found = np.zeros(capacity, bool)
        self._sequences = np.zeros(capacity, np.uint64)
        self._uses = np.zeros(capacity, np.uint8)
        self._index = IdIndex(capacity)
        self._untouched = 0  # slots from here on were never used
        self._free: list[int] = []
        self._hand = 0
        self._asked = 0
        self._frequency = Frequency(_SKETCH * capacity)

    @staticmethod
    def bytes_of(capacity: int, row_bytes: int) -> int:
        """What so many slots take beside the ids: row, flag, sequence, count, index, sketch."""
        own = capacity * (row_bytes + 1 + 8 + 1)
        return own + IdIndex.bytes_of(capacity) + Frequency.bytes_of(_SKETCH * capacity)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, item_id: str) -> bool:
        return bool(self._index.find([item_id])[0] >= 0)

    def lookup(self, ids: Sequence[str]) -> Slots:
        """K ids -> (K,) slots, -1 where not resident."""
        return self._index.find(ids)

    def read(self, slots: Slots) -> tuple[Rows, Flags]:
        """(K,) slots, none -1 -> copies: (K,) rows of dtype, found (K,) bool."""
        rows = self._rows.take(slots, axis=0).view(self.dtype)[:, 0]
        return rows, self._found.take(slots)

    def sequences(self, slots: Slots) -> Sequences:
        """(K,) slots, none -1 -> (K,) uint64; 0 where the row has none."""
        return self._sequences.take(slots)

    def use(self, slots: Slots) -> None:
        """Rows of (K,) slots, none -1, were asked for once more."""
        uses = self._uses.take(slots)
        self._uses[slots] = uses + (uses < MOST)
        self._count(len(slots))

    def miss(self, ids: Sequence[str]) -> None:
        """Ids that are not resident were asked for."""
        self._frequency.add(ids)
        self._count(len(ids))

    def expect(self, ids: Sequence[str], counts: Counts) -> None:
        """K ids will be asked for as often as `counts` (K,) says."""
        self._frequency.expect(ids, counts)

    def offer(self, ids: Sequence[str], rows: Rows, found: Flags, sequences: Sequences | None = None) -> None:
        """Keep the rows of K distinct ids where they earn a slot; those that are resident are passed over.

        rows: (K,) of dtype, zero where not found; found: (K,) bool; sequences: (K,) uint64, None = without.
        """
        new = np.flatnonzero(self.lookup(ids) < 0)
        if not len(new) or not self.capacity:
            return
        counts = self._frequency.estimate([ids[i] for i in new.tolist()])
        order = np.argsort(-counts.astype(np.int16), kind="stable")
        told = np.zeros(len(ids), np.uint64) if sequences is None else sequences
        self._keep(ids, self._bytes(rows), found, told, new[order], counts[order])

    def take(self, other: SlotTable, slots: Slots) -> None:
        """Keep the rows at these distinct slots of another table, as many as earn one, as they are.

        Slots that are not taken, and ids that are resident here, are passed over.
        """
        slots = other._index.taken(slots)
        ids = other._index.ids(slots)
        new = np.flatnonzero(self.lookup(ids) < 0)
        if not len(new) or not self.capacity:
            return
        uses = other._uses[slots]
        new = new[np.argsort(-uses[new].astype(np.int16), kind="stable")]
        rows = other._rows.take(slots, axis=0)
        self._keep(ids, rows, other._found[slots], other._sequences[slots], new, uses[new])

    def _keep(
        self,
        ids: Sequence[str],
        blob: npt.NDArray[np.uint8],
        found: Flags,
        told: Sequences,
        new: Slots,
        counts: Counts,
    ) -> None:
        """Slots for those at the places `new`, in this order, their counts falling."""
        at = 0
        for take in (self._vacant, self._evict):
            slots = take(counts[at:])
            some = new[at : at + len(slots)]
            self._rows[slots], self._found[slots] = blob[some], found[some]
            self._sequences[slots], self._uses[slots] = told[some], counts[at : at + len(slots)]
            self._index.add([ids[i] for i in some.tolist()], slots)
            at += len(slots)

    def renew(self, ids: Sequence[str], rows: Rows, found: Flags, sequences: Sequences) -> None:
        """Newer rows of whatever is resident among K ids; of an id that comes twice the newest stays.

        A row resident as absent without a sequence is dropped: whether this one is newer is not known.
        """
        slots = self.lookup(ids)
        place = np.flatnonzero(slots >= 0)
        slots = slots[place]
        untold = ~self._found[slots] & (self._sequences[slots] == 0)
        newer = ~untold & (sequences[place] > self._sequences[slots])
        place, changed = place[newer], slots[newer]
        order = np.argsort(sequences[place], kind="stable")
        place, changed = place[order], changed[order]
        blob = self._bytes(rows)
        self._rows[changed] = np.where(found[place, None], blob[place], np.uint8(0))
        self._found[changed] = found[place]
        self._sequences[changed] = sequences[place]
        self._release(np.unique(slots[untold]))

    def clear(self) -> None:
        """Nothing is resident any more; what was asked for is remembered."""
        self._frequency.expect(*self.hottest(_REMEMBERED))
        self._index = IdIndex(self.capacity)
        self._untouched, self._free, self._hand = 0, [], 0

    def hottest(self, most: int) -> tuple[list[str], Counts]:
        """The ids that were asked for most of what is resident, at most so many -> ids, (K,) uint8 counts."""
        slots = self._index.slots()
        order = np.argsort(-self._uses[slots].astype(np.int16), kind="stable")
        slots = slots[order[:most]]
        return self._index.ids(slots), self._uses[slots]

    def counts(self) -> Counts:
        """(capacity,) uint8: how often each slot's row was asked for; a copy."""
        return self._uses.copy()

    def taken(self) -> Slots:
        """All slots that have a row, rising."""
        return self._index.slots()

    def freed(self) -> Iterator[None]:
        """Give the memory back in steps of a few MiB; the table is of no use from the first one on."""
        yield from self._index.forgotten()
        for array in (self._rows, *self._index.arrays(), self._frequency.counters()):
            step = max(1, _FREED_BYTES // array.itemsize)
            for size in range(array.size - step, 0, -step):
                array.resize(size, refcheck=False)  # nobody else has a view of it
                yield

    def _bytes(self, rows: Rows) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), self.dtype.itemsize)

    def _vacant(self, counts: Counts) -> Slots:
        wanted = len(counts)
        released = [self._free.pop() for _ in range(min(wanted, len(self._free)))]
        end = min(self.capacity, self._untouched + wanted - len(released))
        slots = np.concatenate([np.array(released, np.int64), np.arange(self._untouched, end)])
        self._untouched = end
        return slots

    def _evict(self, counts: Counts) -> Slots:
        """Slots for newcomers with these falling counts: for those asked for more than who is there."""
        stretch = min(self.capacity, max(_STRETCH * len(counts), _LEAST_STRETCH))
        seen = (self._hand + np.arange(stretch)) % self.capacity
        self._hand = (self._hand + stretch) % self.capacity
        victims = seen[np.argsort(self._uses[seen], kind="stable")][: len(counts)]
        victims = victims[counts[: len(victims)] > self._uses[victims]]
        self._index.remove(victims)
        self.evictions += len(victims)
        return victims

    def _release(self, slots: Slots) -> None:
        self._index.remove(slots)
        self._uses[slots] = 0
        self._free += slots.tolist()

    def _count(self, asked: int) -> None:
        self._asked += asked
        if self._asked >= _HALVE_AFTER * self.capacity:
            self._asked = 0
            self._uses >>= 1

    def resident(self) -> Iterator[tuple[str, bytes, bool, int]]:
        """Every resident id with its row, whether it was found, and its sequence."""
        slots = self._index.slots()
        for item_id, slot in zip(self._index.ids(slots), slots.tolist(), strict=True):
            yield (
                item_id,
                self._rows[slot].tobytes(),
                bool(self._found[slot]),
                int(self._sequences[slot]),
            )
