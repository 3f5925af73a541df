"""The slot table against a dict: whatever is resident is what was offered or renewed last."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contracts.codec import Rows, record_dtype
from param_server.slots import OVERHEAD, SlotTable

DTYPE = record_dtype((4,), 1)
IDS = [f"item-{i}" for i in range(24)] + ["", "\0", "映画", "x" * 256]
some_ids = st.lists(st.sampled_from(IDS), unique=True, max_size=10)


def rows_of(sequences: list[int]) -> Rows:
    rows = np.zeros(len(sequences), DTYPE)
    rows["sequence"] = sequences
    rows["codes"] = np.array(sequences)[:, None] % 100
    return rows


class Model(RuleBasedStateMachine):
    """known: id -> (sequence, found) of the newest row that the table was given of a resident id."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(8, DTYPE)
        self.known: dict[str, tuple[int, bool]] = {}
        self.clock = 0

    def resident(self) -> dict[str, tuple[bytes, bool, int]]:
        return {item_id: row for item_id, *row in self.table.resident()}  # type: ignore[misc]

    @rule(ids=some_ids, found=st.lists(st.booleans(), min_size=10, max_size=10))
    def offer(self, ids: list[str], found: list[bool]) -> None:
        self.clock += 1
        there = np.array(found[: len(ids)], bool)
        sequences = [self.clock * flag for flag in there.tolist()]
        before = set(self.resident())
        self.table.miss([item_id for item_id in ids if item_id not in before])
        self.table.offer(ids, rows_of(sequences), there, np.array(sequences, np.uint64))
        for item_id, sequence, flag in zip(ids, sequences, there.tolist(), strict=True):
            if item_id in self.table and item_id not in before:
                self.known[item_id] = (sequence, flag)

    @rule(window=st.lists(st.tuples(st.sampled_from(IDS), st.integers(1, 40), st.booleans()), max_size=6))
    def renew(self, window: list[tuple[str, int, bool]]) -> None:
        before = self.resident()
        untold = {item_id for item_id, (_, found, sequence) in before.items() if not found and not sequence}
        sequences = [sequence for _, sequence, _ in window]
        found = np.array([flag for *_, flag in window], bool)
        self.table.renew(
            [item_id for item_id, *_ in window], rows_of(sequences), found, np.array(sequences, np.uint64)
        )
        for item_id, sequence, flag in window:
            if item_id in untold:
                assert item_id not in self.table
            elif item_id in before and sequence > self.known[item_id][0]:
                self.known[item_id] = (sequence, flag)

    @rule(ids=some_ids)
    def use(self, ids: list[str]) -> None:
        slots = self.table.lookup(ids)
        self.table.use(slots[slots >= 0])

    @rule(capacity=st.integers(0, 12))
    def resize(self, capacity: int) -> None:
        """Rows move in two steps; a second offer of an id that moved already changes nothing."""
        other = SlotTable(capacity, DTYPE)
        for slots in (self.table.taken()[::2], self.table.taken()):
            other.take(self.table, slots)
        self.table = other

    @rule()
    def clear(self) -> None:
        self.table.clear()

    @invariant()
    def holds_what_it_was_given(self) -> None:
        resident = self.resident()
        assert len(resident) == len(self.table) <= self.table.capacity
        ids = list(resident)
        slots = self.table.lookup(ids)
        assert len(set(slots.tolist())) == len(ids)
        rows, found = self.table.read(slots)
        for i, item_id in enumerate(ids):
            sequence, flag = self.known[item_id]
            assert (bool(found[i]), int(self.table.sequences(slots)[i])) == (flag, sequence)
            expected = rows_of([sequence])[0] if flag else np.zeros(1, DTYPE)[0]
            assert rows[i].tobytes() == expected.tobytes()


TestSlotTable = Model.TestCase
TestSlotTable.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def offered(table: SlotTable, ids: list[str]) -> None:
    """As a cache does it: asked for, then read and offered, or used where resident."""
    slots = table.lookup(ids)
    table.use(slots[slots >= 0])
    lacking = [item_id for item_id, slot in zip(ids, slots.tolist(), strict=True) if slot < 0]
    table.miss(lacking)
    table.offer(lacking, rows_of([1] * len(lacking)), np.ones(len(lacking), bool))


def test_a_scan_of_rare_ids_does_not_push_out_what_is_asked_for() -> None:
    table, hot = SlotTable(1_000, DTYPE), [f"hot-{i}" for i in range(800)]
    for _ in range(4):
        offered(table, hot)
    for at in range(0, 100_000, 500):
        offered(table, [f"rare-{at + i}" for i in range(500)])
        offered(table, hot[at % 800 : at % 800 + 100])
    assert sum(item_id in table for item_id in hot) >= 780
    assert len(table) == table.capacity


def test_what_becomes_popular_takes_the_place_of_what_was() -> None:
    table = SlotTable(200, DTYPE)
    old, new = [f"old-{i}" for i in range(200)], [f"new-{i}" for i in range(200)]
    for _ in range(20):
        offered(table, old)
    for _ in range(100):
        offered(table, new)
    assert sum(item_id in table for item_id in new) >= 190
    assert table.evictions >= 190


def test_a_smaller_table_keeps_what_is_asked_for_most() -> None:
    table, hot = SlotTable(100, DTYPE), [f"hot-{i}" for i in range(10)]
    offered(table, [*hot, *(f"cold-{i}" for i in range(90))])
    for _ in range(5):
        offered(table, hot)
    small = SlotTable(10, DTYPE)
    for at in range(0, 100, 7):
        small.take(table, table.taken()[at : at + 7])
    assert sorted(small.hottest(50)[0]) == sorted(hot)


def test_memory_is_given_back_in_steps() -> None:
    table = SlotTable(40_000, np.dtype([("x", np.uint8, (640,))]))
    assert sum(1 for _ in table.freed()) >= 40_000 * 640 // (4 << 20)
    assert table._rows.nbytes <= 4 << 20


@pytest.mark.parametrize("rows", [20_000])
def test_a_row_takes_no_more_than_is_counted_for_it(rows: int) -> None:
    """Ids of 36 characters, all slots taken, what is asked for counted too."""
    dtype = record_dtype((128, 128), 0)
    blob = np.zeros(rows, dtype)
    blob["version"] = 1
    tracemalloc.start()
    try:
        table = SlotTable(rows, dtype)
        table.offer([f"{i:036d}" for i in range(rows)], blob, np.ones(rows, bool))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used <= rows * (dtype.itemsize + OVERHEAD)
