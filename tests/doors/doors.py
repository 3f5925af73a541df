"""Doors with nothing behind them but an error to raise: no store, no model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from fastapi import FastAPI, Request

from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from doors.body import read_body
from doors.grpc_errors import Context, GrpcErrors
from doors.grpc_server import GrpcServer
from doors.http_server import http_server
from doors.problems import install_problems

SERVICE = "repcenter.v1.Scorer"
LIMIT = 4096


def http_app(error: Exception | None = None) -> FastAPI:
    """POST /echo: the length of the body; GET /fail: raises `error`; GET /count/{n}: wants a number."""
    app = FastAPI()
    install_problems(app, "tester")

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await read_body(request, LIMIT))

    @app.get("/fail")
    async def fail() -> None:
        assert error is not None
        raise error

    @app.get("/count/{number}")
    async def count(number: int) -> int:
        return number

    return app


@asynccontextmanager
async def http_door(app: FastAPI, host: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app behind a real socket."""
    async with (
        http_server(app, host, 0, stop_s=2.0) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        yield client


class Failing(pb_grpc.ScorerServicer):
    """Score echoes the scene, or refuses with `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self._errors = GrpcErrors(SERVICE, "tester")

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        try:
            if self._error is not None:
                raise self._error
            return pb.ScoreResponse(scene=request.scene)
        except Exception as error:
            await self._errors.abort(context, error, "Score")


@asynccontextmanager
async def grpc_door(
    error: Exception | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[GrpcServer]:
    """A started gRPC server over Failing."""
    add = cast(Any, pb_grpc.add_ScorerServicer_to_server)
    server = GrpcServer(SERVICE, lambda made: add(Failing(error), made), host, port, LIMIT)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(1.0)
