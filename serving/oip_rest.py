"""The Open Inference Protocol over HTTP: paths below /v2. They only translate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect

from contracts.errors import RepcenterError
from contracts.problem import STATUSES, http_status, retry_after_s
from doors.body import read_body
from serving.disconnect import CLIENT_CLOSED_REQUEST, while_connected
from serving.metrics import Metrics
from serving.oip import EXTENSIONS, PLATFORM, OpenInference
from serving.oip_json import (
    ANSWER_SCHEMA,
    HEADER_LENGTH,
    infer_body,
    infer_body_schema,
    model_body,
    named,
    parse_infer,
)
from serving.readiness import Readiness

_JSON = "application/json"
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
}


def add_open_inference(
    app: FastAPI, inference: OpenInference, readiness: Readiness, metrics: Metrics, max_body_bytes: int
) -> None:
    """Put the protocol's paths on an app. Its errors are `{"error": …}`, as its clients read them."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    common: dict[str, Any] = {"tags": ["open inference protocol"]}

    async def server() -> Response:
        return _json({"name": "repcenter", "version": installed("repcenter"), "extensions": EXTENSIONS})

    @app.get("/v2/health/live", summary="The process runs", **common)
    async def live() -> Response:
        return _json({"live": True})

    @app.get(
        "/v2/health/ready",
        summary="Every scene is loaded and the store answers",
        responses=_errors("unavailable"),
        **common,
    )
    async def ready() -> Response:
        try:
            await readiness.check()
        except RepcenterError as error:
            return _refused(error)
        return _json({"ready": True})

    async def model_ready(model: str, version: str | None = None) -> Response:
        def tell() -> Response:
            inference.model(model, version)
            return _json({"name": model, "ready": True})

        return _answered(tell)

    async def model_metadata(model: str, version: str | None = None) -> Response:
        return _answered(
            lambda: Response(model_body(inference.model(model, version), PLATFORM), media_type=_JSON)
        )

    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        """Tensors in, tensors out: `candidates` and whatever is known of the user give `scores` and
        `statuses`. The model is a scene, the version a generation. With the binary tensor extension
        tensors follow the JSON as bytes."""
        began = time.perf_counter()
        outcome = "internal"
        try:
            body = await read_body(request, max_body_bytes)
            inference.check_admission(body)
            call, binary = parse_infer(body, request.headers.get(HEADER_LENGTH), model, version)
            answer = await while_connected(request, inference.infer(call))
            outcome = "ok"
            content, header_length = infer_body(answer, binary)
            if header_length is None:
                return Response(content, media_type=_JSON)
            headers = {HEADER_LENGTH: str(header_length)}
            return Response(content, media_type="application/octet-stream", headers=headers)
        except RepcenterError as error:
            outcome = error.code
            return _refused(error)
        except RequestValidationError as error:
            outcome = "invalid"
            return _json({"error": named(error.errors()), "code": outcome}, 400)
        except ClientDisconnect:
            outcome = "cancelled"
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            metrics.request("oip_http", outcome, time.perf_counter() - began)

    for path in ("/v2", "/v2/"):
        app.get(path, summary="Name, version and extensions", include_in_schema=path == "/v2", **common)(
            server
        )
    for path, given in ((model, "the live generation"), (version, "this generation")):
        tell, run = _errors("not_found", "unavailable"), _errors(*_INFER_ERRORS)
        app.get(path, summary=f"What a scene reads and gives: {given}", responses=tell, **common)(
            model_metadata
        )
        app.get(path + "/ready", summary=f"A scene serves {given}", responses=tell, **common)(model_ready)
        app.post(
            path + "/infer",
            summary=f"Score tensors with {given}",
            openapi_extra={"requestBody": infer_body_schema()},
            responses={
                200: {"content": {_JSON: {"schema": ANSWER_SCHEMA}}, "description": "Scores and statuses"},
                **run,
            },
            **common,
        )(infer)


_INFER_ERRORS = (*("invalid", "too_large", "not_found", "conflict", "overloaded", "unavailable", "deadline"),)


def _errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    content = {_JSON: {"schema": _ERROR_SCHEMA}}
    return {
        (400 if code == "invalid" else STATUSES[code][0]): {
            "description": STATUSES[code][2],
            "content": content,
        }
        for code in codes
    }


def _json(document: dict[str, object], status: int = 200) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type=_JSON)


def _answered(give: Callable[[], Response]) -> Response:
    try:
        return give()
    except RepcenterError as error:
        return _refused(error)


def _refused(error: RepcenterError) -> Response:
    """As `doors.problems` would, in the protocol's own words: 400 where a field cannot be used."""
    answer = _json(
        {"error": str(error), "code": error.code}, 400 if error.code == "invalid" else http_status(error)
    )
    if (wait_s := retry_after_s(error)) is not None:
        answer.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    return answer
