"""Work for an HTTP caller, cancelled when the caller hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

CLIENT_CLOSED_REQUEST = 499
_WATCH_AFTER_S = 0.003

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, cancelled with ClientDisconnect when the caller hangs up. The body must be read.

    Whether the caller is still there is looked at when the work takes longer than most does.
    """
    task, watcher = asyncio.current_task(), None
    assert task is not None

    def hang_up(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled():
            task.cancel()

    def watch() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(_disconnected(request))
        watcher.add_done_callback(hang_up)

    later = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if watcher is not None and watcher.done() and not watcher.cancelled():
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        later.cancel()
        if watcher is not None:
            watcher.remove_done_callback(hang_up)
            watcher.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
