"""Every error of an HTTP door as RFC 9457 problem+json; contracts.problem owns the table."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from contracts.errors import RepcenterError
from contracts.problem import MEDIA_TYPE, STATUSES, problem, retry_after_s, validation_problem

log = logging.getLogger(__name__)
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "retry_after_s": {"type": "number"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "value": {}, "reason": {"type": "string"}},
            },
        },
    },
}


def problem_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses for these error codes."""
    return {
        STATUSES[code][0]: {
            "description": STATUSES[code][2],
            "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}},
        }
        for code in codes
    }


def install_problems(app: FastAPI, process: str) -> None:
    """Answer every error of this app with a problem; an unforeseen one points to the process's log."""

    async def our_error(request: Request, error: Exception) -> Response:
        return unforeseen(request.url.path, process)

    app.add_exception_handler(RepcenterError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, our_error)


def _answer(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(body), status_code=body["status"], media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def refusal(error: RepcenterError | RequestValidationError, path: str) -> Response:
    """The answer to a request that is refused."""
    if isinstance(error, RequestValidationError):
        return _answer(validation_problem(error.errors(), path))
    if error.code == "internal":
        log.error("%s: %s", path, error)
    wait_s = retry_after_s(error)
    headers = {} if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return _answer(problem(error, path), headers)


def unforeseen(path: str, process: str) -> Response:
    """The server logs the trace; the answer tells nothing of our insides."""
    status, _, title = STATUSES["internal"]
    return _answer(
        {
            "type": "urn:repcenter:problem:internal",
            "title": title,
            "status": status,
            "detail": f"the {process}'s log says more",
            "instance": path,
        }
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RepcenterError | RequestValidationError)
    return refusal(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    """Routing's own errors (404, 405, 415): no code of ours, so the status explains itself."""
    assert isinstance(error, HTTPException)
    body = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": f"{request.method} {request.url.path}: {error.detail}",
        "instance": request.url.path,
    }
    return _answer(body, error.headers)
