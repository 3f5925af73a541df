"""Services run on uvloop where it is installed, as it is here."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from doors.event_loop import run


def test_the_loop_is_uvloops() -> None:
    seen: list[asyncio.AbstractEventLoop] = []

    async def look() -> None:
        seen.append(asyncio.get_running_loop())

    run(look())
    assert isinstance(seen[0], uvloop.Loop)


def test_an_error_comes_out() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run(fail())
