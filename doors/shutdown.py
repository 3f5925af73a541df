"""How a process ends in good order: signals, and background tasks that must be gone."""

from __future__ import annotations

import asyncio
import signal
from typing import Any


def on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`, in place of whatever they did."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel until it ends; raises the error of a task that had one.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, which redis-py uses, may swallow one.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
    if not task.cancelled():
        task.result()
