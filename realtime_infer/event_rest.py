"""The HTTP write door's paths of behaviour events. They only translate."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from contracts.errors import InvalidInput
from doors.body import read_body
from doors.problems import problem_responses
from realtime_infer.event_body import (
    JSON,
    NDJSON,
    EventsAnswer,
    ForgottenAnswer,
    events_schema,
    parse_event,
    parse_lines,
)
from realtime_infer.event_metrics import EventMetrics
from realtime_infer.events import Events

_ERRORS = ("invalid", "too_large", "overloaded", "unavailable", "unknown_version")


def add_events(
    app: FastAPI, events: Events, metrics: EventMetrics, max_body_bytes: int, body_s: float
) -> None:
    """POST /v1/events and DELETE /v1/users/{user_id}. The app knows the path convertor `any`."""

    @app.post(
        "/v1/events",
        tags=["events"],
        summary="Append to the behaviours of users: one event, or a batch as NDJSON",
        response_model=EventsAnswer,
        responses=problem_responses(*_ERRORS),
        openapi_extra={"requestBody": events_schema()},
    )
    async def append(request: Request) -> EventsAnswer:
        """Answered once the events are on disk and readable. A batch is taken as a whole or refused as a
        whole; events may come late, in any order, and again."""
        with metrics.call("append", "http", (RequestValidationError, HTTPException)), events.admit():
            kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
            if kind not in (JSON, NDJSON):
                raise HTTPException(415, f"content type {kind[:64]!r} is neither {JSON} nor {NDJSON}")
            try:
                async with asyncio.timeout(body_s):
                    body = await read_body(request, max_body_bytes)
            except TimeoutError as error:
                raise HTTPException(408, f"the body took longer than {body_s:g} s") from error
            single = kind == JSON
            found = await events.append([parse_event(body)] if single else parse_lines(body), single=single)
            metrics.appended(found)
            return EventsAnswer(**asdict(found))

    @app.delete(
        "/v1/users/{user_id:any}",
        tags=["events"],
        summary="Delete all of a user's behaviours",
        response_model=ForgottenAnswer,
        responses=problem_responses(*_ERRORS),
    )
    async def forget(request: Request, user_id: str) -> ForgottenAnswer:
        """Answered once the deletion is on disk. Events from before it are refused from then on, however late
        or often they come. Deleting an unknown user is no error."""
        with metrics.call("forget", "http"):
            raw = request.scope.get("raw_path", b"")
            try:
                unquote_to_bytes(raw).decode()
            except UnicodeDecodeError as error:
                raise InvalidInput("user_id", raw.decode("latin-1"), "is not UTF-8") from error
            return ForgottenAnswer(**asdict(await events.forget(user_id)))
