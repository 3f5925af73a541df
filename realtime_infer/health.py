"""Health and metrics over HTTP, the same for the write door and the worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Response

from realtime_infer.metrics import CONTENT_TYPE
from realtime_infer.problems import problem_responses


def add_health(
    app: FastAPI, check: Callable[[], Awaitable[object]], expose: Callable[[], Awaitable[bytes]]
) -> None:
    """check: returns when ready, raises a RepcenterError when not; expose: the Prometheus text."""

    @app.get("/health/live", tags=["health"], summary="The process runs")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/health/ready",
        tags=["health"],
        summary="The process can do its work",
        responses=problem_responses("unavailable"),
    )
    async def ready() -> dict[str, str]:
        await check()
        return {"status": "ready"}

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(await expose(), media_type=CONTENT_TYPE)
