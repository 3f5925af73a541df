"""The resident rows of one table, also while they move to more or fewer slots.

The rows move in small steps between which the event loop goes on. Until the last step the old slots answer;
windows, new rows and drops go to both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from contracts.codec import Rows
from param_server.frequency import Counts
from param_server.id_index import Slots
from param_server.slots import Flags, Sequences, SlotTable

STEP = 1_024  # rows that move at once
_PAUSE_S = 0.001  # between steps: half of the time, about, is left to requests


class Resident:
    """slots: what is read; replaced when a resize ends, so it is asked for again after every await."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self.slots = SlotTable(0, dtype)
        self._next: SlotTable | None = None

    def lookup(self, ids: Sequence[str]) -> Slots:
        """K ids -> (K,) slots, -1 where not resident."""
        return self.slots.lookup(ids)

    def offer(self, ids: Sequence[str], rows: Rows, found: Flags, sequences: Sequences | None = None) -> None:
        """As SlotTable.offer. A row that has yet to move is not overtaken by the one offered."""
        if self._next is not None:
            new = np.flatnonzero(self.slots.lookup(ids) < 0)
            told = None if sequences is None else sequences[new]
            self._next.offer([ids[i] for i in new.tolist()], rows[new], found[new], told)
        self.slots.offer(ids, rows, found, sequences)

    def renew(self, ids: Sequence[str], rows: Rows, found: Flags, sequences: Sequences) -> None:
        """As SlotTable.renew."""
        for table in self._tables():
            table.renew(ids, rows, found, sequences)

    def miss(self, ids: Sequence[str]) -> None:
        """As SlotTable.miss."""
        for table in self._tables():
            table.miss(ids)

    def expect(self, ids: Sequence[str], counts: Counts) -> None:
        """As SlotTable.expect."""
        for table in self._tables():
            table.expect(ids, counts)

    def clear(self) -> None:
        """As SlotTable.clear."""
        for table in self._tables():
            table.clear()

    def end(self) -> SlotTable:
        """Nothing is resident from now on -> the slots there were."""
        old, self.slots, self._next = self.slots, SlotTable(0, self.slots.dtype), None
        return old

    async def resize(self, capacity: int) -> None:
        """Move the rows asked for most to so many slots, and give back what they leave.

        Until then both are in memory, the new ones as they fill.
        """
        old, uses = self.slots, self.slots.counts()
        new = await asyncio.to_thread(SlotTable, capacity, old.dtype)
        slots = await asyncio.to_thread(_most_used, uses, old.taken(), capacity)
        if self.slots is not old:
            return
        self._next = new
        for at in range(0, len(slots), STEP):
            new.take(old, slots[at : at + STEP])
            await asyncio.sleep(_PAUSE_S)
            if self._next is not new:
                await give_back(new)
                return
        new.evictions = old.evictions + max(0, len(old) - len(new))
        self.slots, self._next = new, None
        await give_back(old)

    def _tables(self) -> list[SlotTable]:
        return [self.slots] if self._next is None else [self.slots, self._next]


async def give_back(table: SlotTable) -> None:
    """Free the memory of a table that nobody uses any more, in small steps."""
    for _ in table.freed():
        await asyncio.sleep(_PAUSE_S)


def _most_used(uses: Counts, taken: Slots, most: int) -> Slots:
    """Of the slots that are taken, at most so many, those with the highest counts, rising."""
    order = np.argsort(-uses[taken].astype(np.int16), kind="stable")[:most]
    return np.sort(taken[order])
