"""The error tree, its one table of statuses, and bodies that can always be sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import grpc
import orjson
import pytest

from contracts import errors, problem
from contracts.errors import (
    InvalidInput,
    NotFound,
    Overloaded,
    RepcenterError,
    SpaceMismatch,
    TooLarge,
    shown,
)


def tree(root: type[RepcenterError] = RepcenterError) -> Iterator[type[RepcenterError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


KINDS = sorted(tree(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_of_statuses(kind: type[RepcenterError]) -> None:
    status, name, title = problem.STATUSES[kind.code]
    assert 400 <= status < 600
    assert getattr(grpc.StatusCode, name).name == name
    assert title


def test_every_row_has_an_error() -> None:
    assert {kind.code for kind in KINDS} == set(problem.STATUSES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_drawing_shows_every_error_and_its_code(kind: type[RepcenterError]) -> None:
    lines = (errors.__doc__ or "").splitlines()
    drawn = [line for line in lines if re.search(rf"(── |^){kind.__name__} ", line)]
    assert len(drawn) == 1
    assert kind is RepcenterError or f" {kind.code} " in drawn[0]


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


VALUES = [
    "x",
    "x" * 10_000,
    b"\0" * 10_000,
    "\ud800",
    deep(5_000),
    10**400,
    10**5000,
    Rude(),
    None,
    float("nan"),
    {"a": {"b": 1}},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_any_value_can_be_shown_and_sent(value: object) -> None:
    text = shown(value)
    assert 0 < len(text) <= 81
    body = problem.problem(InvalidInput("items[3].title", value, "is odd"), "/v1/items")
    assert json.loads(orjson.dumps(body)) == body
    assert body["status"] == 422
    assert body["errors"] == [{"field": "items[3].title", "value": text, "reason": "is odd"}]


def test_too_large_names_size_and_limit() -> None:
    body = problem.problem(TooLarge("candidates", 2001, 2000, "items"), "/v1/score")
    assert (body["status"], body["type"]) == (413, "urn:repcenter:problem:too_large")
    assert body["detail"] == "candidates: 2001 items exceed the limit of 2000"
    assert body["errors"][0]["field"] == "candidates"


def test_problem_has_the_members_of_rfc_9457() -> None:
    body = problem.problem(NotFound("item", "7"), "/v1/items/7")
    assert body == {
        "type": "urn:repcenter:problem:not_found",
        "title": "No such thing",
        "status": 404,
        "detail": "no item '7'",
        "instance": "/v1/items/7",
    }
    assert problem.grpc_status(NotFound("item", "7")) == "NOT_FOUND"


def test_overload_says_when_to_come_back() -> None:
    assert problem.retry_after_s(Overloaded("rows", 2.5)) == 2.5
    assert problem.retry_after_s(NotFound("item", 7)) is None
    assert problem.http_status(Overloaded("rows")) == 429


def test_a_space_mismatch_is_a_conflict() -> None:
    error = SpaceMismatch("a", "b", "fetch")
    assert (problem.http_status(error), problem.grpc_status(error)) == (409, "FAILED_PRECONDITION")


def test_validation_problem_names_every_field_and_is_bounded() -> None:
    found = [
        {"loc": ("body", "behaviours", n, "item_id"), "input": "x" * 10_000, "msg": "too long"}
        for n in range(50)
    ]
    body = problem.validation_problem(found, "/v1/score")
    assert body["errors"][3]["field"] == "behaviours[3].item_id"
    assert len(body["errors"]) == 20
    assert len(orjson.dumps(body)) < 10_000
    assert problem.validation_problem([], "/")["detail"] == "body: is invalid"
