"""The JSON of POST /v1/score/many: a request that cannot be read is refused alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from contracts.errors import RepcenterError, TooLarge
from contracts.problem import error_of, problem, validation_problem
from contracts.scores import Scores
from serving.answer_json import EXAMPLE_ANSWER, ScoreAnswer, score_answer
from serving.score_json import (
    EXAMPLE_BODY,
    ScoreBody,
    parse_score_body,
    refused,
    score_body_schema,
)

_PATH = "/v1/score/many"
_MANY_AT_A_GLANCE = 1_024
EXAMPLE_OUTCOMES: dict[str, Any] = {
    "outcomes": [
        {"answer": EXAMPLE_ANSWER, "problem": None},
        {
            "answer": None,
            "problem": {
                "type": "urn:repcenter:problem:not_found",
                "title": "No such thing",
                "status": 404,
                "detail": "no scene 'nowhere'",
                "instance": _PATH,
            },
        },
    ]
}


@dataclass(frozen=True)
class _Many:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    requests: Annotated[list[ScoreBody], FailFast(), Field(max_length=_MANY_AT_A_GLANCE)]


@dataclass(frozen=True)
class _Envelope:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    requests: list[Any]


class Outcome(BaseModel):
    """One of both."""

    answer: ScoreAnswer | None
    problem: dict[str, Any] | None


class ManyAnswer(BaseModel):
    """In the order of the requests."""

    outcomes: list[Outcome]


_MANY, _ENVELOPE = TypeAdapter(_Many), TypeAdapter(_Envelope)


def parse_many(body: bytes, most: int) -> Sequence[ScoreBody | RepcenterError]:
    """The requests, each one or why it cannot be read. RequestValidationError where the call cannot be,
    TooLarge where there are more than `most`."""
    try:
        bodies = _MANY.validate_json(body).requests
    except ValidationError:
        pass  # one of them, or all of it: read again, one by one
    else:
        _check_count(len(bodies), most)
        return bodies
    try:
        parts = _ENVELOPE.validate_json(body).requests
    except ValidationError as error:
        raise refused(error) from error
    _check_count(len(parts), most)
    return [_parse(to_json(part, inf_nan_mode="constants")) for part in parts]


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise TooLarge("requests", count, most, "requests")


def _parse(body: bytes) -> ScoreBody | RepcenterError:
    try:
        return parse_score_body(body)
    except RequestValidationError as error:
        return error_of(validation_problem(error.errors(), _PATH))


def many_answer(
    bodies: Sequence[ScoreBody | RepcenterError], outcomes: Sequence[Scores | RepcenterError]
) -> bytes:
    """The answer's JSON."""
    return orjson.dumps(
        {"outcomes": [_outcome(body, out) for body, out in zip(bodies, outcomes, strict=True)]}
    )


def _outcome(body: ScoreBody | RepcenterError, outcome: Scores | RepcenterError) -> dict[str, object]:
    if isinstance(outcome, RepcenterError):
        return {"answer": None, "problem": problem(outcome, _PATH)}
    assert isinstance(body, ScoreBody)
    answer = score_answer(outcome, body.candidates, body.top_k)
    return {"answer": orjson.Fragment(answer), "problem": None}


def many_body_schema() -> dict[str, Any]:
    """OpenAPI's requestBody."""
    anything = {"description": "Anything else is refused alone."}
    schema = {
        "type": "object",
        "required": ["requests"],
        "additionalProperties": False,
        "properties": {"requests": {"type": "array", "items": {"anyOf": [score_body_schema(), anything]}}},
    }
    example = {"requests": [EXAMPLE_BODY, {"scene": "nowhere", "candidates": ["film-50"]}]}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
