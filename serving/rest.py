"""The HTTP read door. It only translates: bytes -> Scorer -> bytes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from contracts.errors import RepcenterError
from doors.body import read_body
from doors.health import add_health
from doors.problems import install_problems, problem_responses
from serving.answer_json import EXAMPLE_ANSWER, ScoreAnswer
from serving.disconnect import CLIENT_CLOSED_REQUEST, while_connected
from serving.listing import Listing
from serving.many import Asked, score_many
from serving.many_json import EXAMPLE_OUTCOMES, ManyAnswer, many_answer, many_body_schema, parse_many
from serving.metrics import Metrics
from serving.oip import OpenInference
from serving.oip_rest import add_open_inference
from serving.readiness import Readiness
from serving.score_door import ScoreDoor
from serving.score_json import (
    ScoreBody,
    request_body_schema,
)
from serving.scorer import Scorer

_JSON = "application/json"
_SCORE_ERRORS = ("invalid", "too_large", "not_found", "conflict", "overloaded", "unavailable", "deadline")


class BareRoute(APIRoute):
    """A documented route whose handler gets the request as it is, with nothing of FastAPI's in between."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def create_rest(
    scorer: Scorer,
    listing: Listing,
    readiness: Readiness,
    metrics: Metrics,
    max_body_bytes: int,
    inference: OpenInference,
    door: ScoreDoor,
) -> FastAPI:
    """The door's ASGI app. door: answers POST /v1/score, which is documented here."""
    app = FastAPI(
        title="Repcenter scorer",
        version="1",
        description="Click probabilities for candidates, from what items look like and say. Read-only.",
        separate_input_output_schemas=False,
    )
    install_problems(app, "scorer")

    scoring = APIRouter(route_class=BareRoute)

    @scoring.post(
        "/v1/score",
        summary="Score candidates for one user",
        openapi_extra={"requestBody": request_body_schema()},
        responses={
            200: {"model": ScoreAnswer, "content": {_JSON: {"example": EXAMPLE_ANSWER}}},
            **problem_responses(*_SCORE_ERRORS),
        },
    )
    async def score(request: Request) -> Response:
        """Scores come back in the order of the candidates, with a status each: `ok` (the item's content
        was found), `cold` (its ID row alone), `missing` (neither: the score is null), `default` (neither:
        the score is the request's default) or `encoded` (with the content that the request brought)."""
        return await door.answer(request)

    @scoring.post(
        "/v1/score/many",
        summary="Score several requests, each for itself",
        openapi_extra={"requestBody": many_body_schema()},
        responses={
            200: {"model": ManyAnswer, "content": {_JSON: {"example": EXAMPLE_OUTCOMES}}},
            **problem_responses("invalid", "too_large", "overloaded"),
        },
    )
    async def score_several(request: Request) -> Response:
        """Answers come back in the order of the requests: what POST /v1/score says of one, or its problem.
        One that is refused stops no other."""
        try:
            data = await read_body(request, max_body_bytes)
            scorer.admission.check_unread(data)
            bodies = parse_many(data, scorer.limits.requests)
            asked = [_asked_or_not(body) for body in bodies]
            outcomes = await while_connected(request, score_many(scorer, metrics, "http", asked))
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(many_answer(bodies, outcomes), media_type=_JSON)

    app.include_router(scoring)

    @app.get(
        "/v1/generations",
        summary="Published generations and what each scene serves",
        responses=problem_responses("unavailable"),
    )
    async def generations() -> Response:
        return Response(orjson.dumps(asdict(await listing.read())), media_type=_JSON)

    async def expose() -> bytes:
        return metrics.expose()

    add_open_inference(app, inference, readiness, metrics, max_body_bytes)
    add_health(app, readiness.check, expose, "Every scene is loaded and the store answers")
    return app


def _asked_or_not(body: ScoreBody | RepcenterError) -> Asked | RepcenterError:
    """One of many that cannot be asked is refused alone."""
    try:
        if isinstance(body, RepcenterError):
            return body
        return Asked(body.request(), body.deadline_s, body.generation)
    except RepcenterError as error:
        return error
