"""Every error of an HTTP door is a problem with the status of the one table."""

from __future__ import annotations

import logging

import pytest

from contracts import errors
from contracts.errors import Overloaded, RepcenterError
from contracts.problem import MEDIA_TYPE, STATUSES
from doors.problems import PROBLEM_SCHEMA, problem_responses
from tests.doors.doors import http_app, http_door

ERRORS = (
    errors.InvalidInput("scene", "x", "is unknown"),
    errors.TooLarge("body", 9, 8, "bytes"),
    errors.NotFound("item", "a"),
    errors.Conflict("two things"),
    errors.UnknownVersion("record", 9, 1),
    errors.BrokenBundle("digest"),
    errors.Unauthenticated("no key"),
    errors.Forbidden("another role"),
    Overloaded("rows", 0.2),
    errors.Unavailable("store"),
    errors.DeadlineExceeded("late"),
    RepcenterError("of ours"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_errors_are_problems(error: RepcenterError) -> None:
    async with http_door(http_app(error)) as http:
        answer = await http.get("/fail")
    status, _, title = STATUSES[error.code]
    assert answer.status_code == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    body = answer.json()
    assert (body["type"], body["title"]) == (f"urn:repcenter:problem:{error.code}", title)
    assert (body["status"], body["detail"], body["instance"]) == (status, str(error), "/fail")
    assert set(PROBLEM_SCHEMA["required"]) <= set(body) <= set(PROBLEM_SCHEMA["properties"])
    assert answer.headers.get("retry-after") == ("1" if isinstance(error, Overloaded) else None)


async def test_retry_after_is_rounded_up() -> None:
    async with http_door(http_app(Overloaded("rows", 2.1))) as http:
        assert (await http.get("/fail")).headers["retry-after"] == "3"


async def test_an_unforeseen_error_tells_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with http_door(http_app(ValueError("secret"))) as http:
        answer = await http.get("/fail")
        assert (await http.post("/echo", content=b"abc")).json() == 3  # the neighbour goes on
    assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)
    assert answer.json() == {
        "type": "urn:repcenter:problem:internal",
        "title": STATUSES["internal"][2],
        "status": 500,
        "detail": "the tester's log says more",
        "instance": "/fail",
    }
    assert "ValueError: secret" in caplog.text


async def test_an_error_of_ours_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with http_door(http_app(RepcenterError("a row of a wrong length"))) as http:
        assert (await http.get("/fail")).status_code == 500
    assert ("doors.problems", logging.ERROR, "/fail: a row of a wrong length") in caplog.record_tuples


async def test_routing_and_validation_are_problems_too() -> None:
    async with http_door(http_app()) as http:
        absent, wrong, invalid = (
            await http.get("/nothing"),
            await http.get("/echo"),
            await http.get("/count/many"),
        )
    for answer, status in ((absent, 404), (wrong, 405)):
        assert answer.status_code == answer.json()["status"] == status
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.json()["type"] == "about:blank"
        assert answer.json()["instance"] == answer.request.url.path
    assert wrong.headers["allow"] == "POST"
    assert (invalid.status_code, invalid.headers["content-type"]) == (422, MEDIA_TYPE)
    assert invalid.json()["errors"][0]["field"] == "path.number"


def test_documented_responses_carry_the_tables_statuses() -> None:
    responses = problem_responses("invalid", "overloaded")
    assert set(responses) == {422, 429}
    assert responses[429]["content"] == {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}}
