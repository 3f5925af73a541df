"""Health paths say what check() says; followers hear of every look."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fastapi import FastAPI

from contracts.errors import Unavailable
from contracts.problem import MEDIA_TYPE
from doors.health import METRICS_TYPE, add_health, follow
from doors.problems import install_problems
from doors.shutdown import cancel
from tests.doors.doors import http_door


async def test_paths() -> None:
    app = FastAPI()
    install_problems(app, "tester")
    errors: list[Exception] = [Unavailable("the store is away")]

    async def check() -> None:
        if errors:
            raise errors.pop()

    async def expose() -> bytes:
        return b"up 1.0\n"

    add_health(app, check, expose, "Everything is there")
    async with http_door(app) as http:
        away = await http.get("/health/ready")
        assert (away.status_code, away.headers["content-type"]) == (503, MEDIA_TYPE)
        assert away.json()["detail"] == "the store is away"
        assert (await http.get("/health/ready")).json() == {"status": "ready"}
        assert (await http.get("/health/live")).json() == {"status": "live"}
        metrics = await http.get("/metrics")
        assert (metrics.text, metrics.headers["content-type"]) == ("up 1.0\n", METRICS_TYPE)
        paths = (await http.get("/openapi.json")).json()["paths"]
    assert paths["/health/ready"]["get"]["summary"] == "Everything is there"
    assert set(paths["/health/ready"]["get"]["responses"]) == {"200", "503"}


async def test_followers_hear_of_every_look_whatever_it_finds(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[Exception | None] = [None, Unavailable("away"), ValueError("of ours"), None]
    told: list[bool] = []
    done = asyncio.Event()

    async def check() -> None:
        if (error := looks.pop(0)) is not None:
            raise error

    async def tell(ready: bool) -> None:
        told.append(ready)
        if not looks:
            done.set()
            await asyncio.Event().wait()

    following = asyncio.create_task(follow(check, tell, 0.001))
    async with asyncio.timeout(5):
        await done.wait()
    await cancel(following)
    assert told == [True, False, False, True]
    assert following.cancelled()
    assert ("doors.health", logging.ERROR, "readiness could not be checked") in caplog.record_tuples
