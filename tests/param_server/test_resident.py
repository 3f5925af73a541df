"""Rows that move to more or fewer slots while they are read, renewed, dropped and joined by others."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from contracts.codec import Rows, record_dtype
from param_server.resident import STEP, Resident

DTYPE = record_dtype((4,), 1)
COUNT = 6 * STEP
IDS = [f"item-{i}" for i in range(COUNT)]


def rows_of(sequences: list[int]) -> Rows:
    rows = np.zeros(len(sequences), DTYPE)
    rows["sequence"] = sequences
    rows["codes"] = np.array(sequences)[:, None] % 100
    return rows


def offer(resident: Resident, ids: list[str], sequence: int) -> None:
    rows = rows_of([sequence] * len(ids))
    resident.offer(ids, rows, np.ones(len(ids), bool), rows["sequence"])


def renew(resident: Resident, ids: list[str], sequence: int) -> None:
    rows = rows_of([sequence] * len(ids))
    resident.renew(ids, rows, np.ones(len(ids), bool), rows["sequence"])


async def filled() -> Resident:
    resident = Resident(DTYPE)
    await resident.resize(COUNT)
    offer(resident, IDS, 1)
    assert len(resident.slots) == COUNT
    return resident


def moved(resident: Resident) -> int:
    return 0 if resident._next is None else len(resident._next)


async def moving(resident: Resident, capacity: int) -> asyncio.Task[None]:
    """A resize that has moved its first rows, but not its last."""
    task = asyncio.create_task(resident.resize(capacity))
    async with asyncio.timeout(10):
        while not moved(resident):
            await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize("capacity", [COUNT // 2, 2 * COUNT])
async def test_every_row_is_right_at_every_turn_of_a_resize(capacity: int) -> None:
    """Between any two turns of the loop a window renews rows that have moved and rows that have not."""
    resident, sequence = await filled(), 1
    newest = dict.fromkeys(IDS, 1)
    task = asyncio.create_task(resident.resize(capacity))
    while not task.done():
        sequence += 1
        some = [IDS[(sequence * 7 + i * 31) % COUNT] for i in range(64)]
        renew(resident, some, sequence)
        renew(resident, some, sequence - 1)  # late, and older
        newest |= dict.fromkeys(some, sequence)
        await asyncio.sleep(0)
        slots = resident.lookup(some)
        rows, found = resident.slots.read(slots[slots >= 0])
        assert found.all()
        assert rows["sequence"].tolist() == [
            newest[item_id] for item_id, slot in zip(some, slots.tolist(), strict=True) if slot >= 0
        ]
    await task
    held = list(resident.slots.resident())
    assert len(held) == min(capacity, COUNT)
    assert resident.slots.capacity == capacity
    assert resident.slots.evictions == COUNT - len(held)
    for item_id, row, found_there, told in held:
        assert (found_there, told) == (True, newest[item_id])
        assert row == rows_of([newest[item_id]]).tobytes()


async def test_the_loop_goes_on_while_rows_move() -> None:
    resident = await filled()
    task, most, turns, before = asyncio.create_task(resident.resize(2 * COUNT)), 0, 0, 0
    while not task.done():
        await asyncio.sleep(0)
        now = moved(resident)
        most, turns, before = max(most, now - before), turns + (now > before), now
    assert most == STEP
    assert turns == COUNT // STEP


async def test_what_is_asked_for_most_stays() -> None:
    resident = await filled()
    hot = IDS[5::7][:500]
    for _ in range(3):
        resident.slots.use(resident.lookup(hot))
    await resident.resize(600)
    assert set(hot) <= {item_id for item_id, *_ in resident.slots.resident()}


async def test_rows_that_come_meanwhile_are_kept_once() -> None:
    resident = await filled()
    task = await moving(resident, 2 * COUNT)
    offer(resident, ["new-1", IDS[0], IDS[-1]], 9)
    await task
    held = {item_id: told for item_id, _, _, told in resident.slots.resident()}
    assert len(held) == len(resident.slots) >= COUNT
    assert held[IDS[0]] == held[IDS[-1]] == 1  # what is resident is passed over
    assert held["new-1"] == 9


async def test_a_drop_leaves_nothing_of_what_has_moved() -> None:
    resident = await filled()
    task = await moving(resident, 2 * COUNT)
    resident.clear()
    offer(resident, IDS[:3], 9)
    await task
    assert {(item_id, told) for item_id, _, _, told in resident.slots.resident()} == {
        (item_id, 9) for item_id in IDS[:3]
    }


async def test_a_table_that_goes_while_its_rows_move() -> None:
    resident = await filled()
    task = await moving(resident, 2 * COUNT)
    assert len(resident.end()) == COUNT
    await task
    assert (len(resident.slots), resident.slots.capacity) == (0, 0)
    offer(resident, IDS[:3], 9)
    assert resident.lookup(IDS[:3]).tolist() == [-1, -1, -1]
