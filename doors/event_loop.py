"""The event loop of a service: uvloop where there is one, asyncio's own elsewhere."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Any

if sys.platform == "win32":  # where there is no uvloop
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop


def settle() -> None:
    """Once a service is wired: what start-up made stays for ever, so no collection looks at it again.

    A full one takes tens of milliseconds otherwise, in which nothing is answered.
    """
    gc.collect()
    gc.freeze()


def run(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run` on that loop."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)
