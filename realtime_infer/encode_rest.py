"""The HTTP door of an encoder. It only translates: bytes -> EncodeQueue -> bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from contracts.errors import Overloaded
from doors.body import read_body
from doors.health import add_health
from doors.problems import install_problems, problem_responses
from realtime_infer.encode_body import (
    ENCODE_PATH,
    EXAMPLE,
    EXAMPLE_ANSWER,
    EncodeBody,
    encode_answer,
    parse_encode,
)
from realtime_infer.encode_metrics import EncodeMetrics
from realtime_infer.encode_queue import EncodeQueue
from realtime_infer.settings import EncoderSettings

_JSON = "application/json"
_ERRORS = ("invalid", "too_large", "overloaded", "unavailable", "deadline")
_BODY_S = 10.0


def create_encode_app(
    queue: EncodeQueue,
    check: Callable[[], Awaitable[None]],
    metrics: EncodeMetrics,
    settings: EncoderSettings,
) -> FastAPI:
    """The encoder's ASGI app. check: raises where it is not ready."""
    app = FastAPI(
        title="Repcenter encoder",
        version="1",
        description="Texts and pictures to vectors at once, by the encoder that fills the scene's space.",
        redirect_slashes=False,
    )
    install_problems(app, "encoder")
    in_flight = 0

    @app.post(
        ENCODE_PATH,
        tags=["encode"],
        summary="Vectors of texts and pictures, at once",
        responses={
            **problem_responses(*_ERRORS),
            200: {
                "description": "Per item its vectors by modality, or a problem.",
                "content": {_JSON: {"example": EXAMPLE_ANSWER}},
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {_JSON: {"schema": EncodeBody.model_json_schema(), "example": EXAMPLE}},
            }
        },
    )
    async def encode(request: Request) -> Response:
        """An item that cannot be encoded fails alone. Refused at once where the deadline cannot be met."""
        nonlocal in_flight
        with metrics.call("http", (RequestValidationError, HTTPException)):
            if in_flight >= settings.max_in_flight:
                raise Overloaded(f"{in_flight} requests are in flight", settings.retry_after_s)
            in_flight += 1
            try:
                try:
                    async with asyncio.timeout(_BODY_S):
                        body = parse_encode(await read_body(request, settings.max_body_bytes))
                except TimeoutError as error:
                    raise HTTPException(408, f"the body took longer than {_BODY_S:g} s") from error
                limit_s = None if body.deadline_ms is None else body.deadline_ms / 1000
                vectors = await queue.encode(body.contents(), limit_s)
            finally:
                in_flight -= 1
            answer = encode_answer(vectors, as_floats=body.format == "floats", records=body.records)
            return Response(answer, media_type=_JSON)

    async def expose() -> bytes:
        return metrics.expose()

    add_health(app, check, expose, "An encoder is open and matches its golden outputs")
    return app
