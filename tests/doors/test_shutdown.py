"""Signals set the event; a cancelled task is gone, even where a cancellation is swallowed."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from doors.shutdown import cancel, on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_set_the_event(number: signal.Signals) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    on_signals(stop)
    try:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)


async def test_a_swallowed_cancellation_is_asked_for_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel(task)
    assert task.cancelled()
    assert swallowed == 3


async def test_the_error_that_a_task_ended_with_is_raised() -> None:
    async def failing() -> None:
        raise ValueError("lost otherwise")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="lost otherwise"):
        await cancel(task)


async def test_a_task_that_ended_well_is_left_alone() -> None:
    task = asyncio.create_task(asyncio.sleep(0, "kept"))
    assert await task == "kept"
    await cancel(task)
    assert task.result() == "kept"
