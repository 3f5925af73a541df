"""Health and metrics, the same for every process: as HTTP paths, and told to who wants to follow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from contracts.errors import RepcenterError
from doors.problems import problem_responses

log = logging.getLogger(__name__)
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def add_health(
    app: FastAPI,
    check: Callable[[], Awaitable[object]],
    expose: Callable[[], Awaitable[bytes]],
    ready_means: str = "The process can do its work",
) -> None:
    """check: returns when ready, raises a RepcenterError when not; expose: the Prometheus text."""

    @app.get("/health/live", tags=["health"], summary="The process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/health/ready", tags=["health"], summary=ready_means, responses=problem_responses("unavailable")
    )
    async def ready() -> dict[str, str]:
        await check()
        return {"status": "ready"}

    started = False

    @app.get(
        "/health/startup",
        tags=["health"],
        summary="The process was ready once",
        responses=problem_responses("unavailable"),
    )
    async def startup() -> dict[str, str]:
        nonlocal started
        if not started:
            await check()
            started = True
        return {"status": "started"}

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(await expose(), media_type=METRICS_TYPE)


async def follow(
    check: Callable[[], Awaitable[object]], tell: Callable[[bool], Awaitable[None]], every_s: float
) -> None:
    """Tell after each look whether check() passed, until cancelled."""
    while True:
        try:
            await check()
        except RepcenterError:
            await tell(False)
        except Exception:  # a loop that ends in silence would go on saying what it said last
            log.exception("readiness could not be checked")
            await tell(False)
        else:
            await tell(True)
        await asyncio.sleep(every_s)
