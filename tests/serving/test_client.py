"""The client's wire formats and its typed errors. Its push and status are tested with the write door."""

from __future__ import annotations

import base64
import socket
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from contracts.errors import (
    BrokenBundle,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    RepcenterError,
    TooLarge,
    Unavailable,
    UnknownVersion,
)
from contracts.items import AttributeValue, Item
from contracts.problem import MEDIA_TYPE, error_of, problem
from contracts.request import Behaviour, ScoreRequest
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.scores import Completeness, Scores, Timings
from serving.answer_json import EXAMPLE_ANSWER, score_answer
from serving.client import (
    GrpcClient,
    HttpClient,
    http_error,
    item_body,
    item_message,
    item_path,
    read_score_message,
    read_scores,
    score_body,
    score_message,
)
from serving.rpc import score_request, score_response
from serving.score_json import parse_score_body

BEFORE_COLUMNS = ("behaviours_asked", "behaviours_found", "candidates_asked", "candidates_found")
REQUEST = ScoreRequest(
    ["a", "ü\0"],
    [Behaviour("b", None), Behaviour("c", 5)],
    "search",
    "u1",
    {"age": 34.5, "visits": 7, "{tastes}": ["Crime", "日本"], "long": "x" * 10_000, "none": []},
    {"device": "tv|phone", "least": -(2.0**63), "nothing": ""},
    2**63 - 1,
    {"text": [0.5, -0.25, 2.0**127], "{x}": []},
    missing="encode",
    default_score=0.5,
    query_text="a \0 映画",
    query_image=b"\xff\xd8 \0",
    contents={
        "a": Item("a", {"title": "Heat", "{x}": ""}, {"year": 1995.5, "genres": ["Crime"]}, b"\0\xff"),
        "ü\0": Item("ü\0", image_url="https://x/y.png"),
        "c": Item("c"),
    },
)


def test_requests_arrive_as_they_were() -> None:
    body = parse_score_body(score_body(REQUEST, deadline_s=0.25, generation="g1", top_k=3))
    assert body.request() == REQUEST
    assert (body.deadline_ms, body.generation, body.top_k) == (250.0, "g1", 3)
    message = pb.ScoreRequest.FromString(score_message(REQUEST, "g1").SerializeToString())
    assert score_request(message) == REQUEST
    assert message.generation == "g1"
    assert score_request(pb.ScoreRequest(candidates=["a"])) == ScoreRequest(["a"], [])
    assert parse_score_body(b'{"candidates": ["a"]}').request() == ScoreRequest(["a"], [])


def test_vectors_of_numpy_arrive_too() -> None:
    request = ScoreRequest(["a"], query={"text": np.array([0.5, -1], np.float32)})  # type: ignore[dict-item]
    assert parse_score_body(score_body(request)).request().query == {"text": [0.5, -1]}
    assert score_request(score_message(request)).query == {"text": [0.5, -1]}


def test_integers_keep_all_their_digits_in_json() -> None:
    request = ScoreRequest(["a"], user={"id": 2**63 - 1})
    assert parse_score_body(score_body(request)).request().user == {"id": 2**63 - 1}


def test_a_column_without_a_value_is_named() -> None:
    for where in ("user", "context"):
        columns: dict[str, Any] = {where: {"age": pb.Attribute()}}
        message = pb.ScoreRequest(**columns)
        with pytest.raises(InvalidInput, match=rf"^{where}\.age: has no value"):
            score_request(message)


def test_an_answer_of_a_server_that_counts_no_columns_is_read() -> None:
    body = orjson.dumps(EXAMPLE_ANSWER | {"completeness": dict.fromkeys(BEFORE_COLUMNS, 1)})
    assert read_scores(body).completeness == Completeness(1, 1, 1, 1, 0, 0)


def test_answers_arrive_as_they_were() -> None:
    scores = Scores(
        "default",
        "g1",
        np.array([0.1, np.nan, 1e-9], dtype=np.float32),
        np.array([1, 3, 2], dtype=np.uint8),
        Completeness(4, 3, 3, 2, 6, 5),
        Timings(0.5, 1.25, 2.0, 3.0, 6.75),
    )
    over_http = read_scores(score_answer(scores, ["a", "b", "c"], None))
    over_grpc = read_score_message(pb.ScoreResponse.FromString(score_response(scores).SerializeToString()))
    for got in (over_http, over_grpc):
        np.testing.assert_array_equal(got.scores, scores.scores)
        np.testing.assert_array_equal(got.statuses, scores.statuses)
        assert (got.completeness, got.timings, got.generation) == (scores.completeness, scores.timings, "g1")
    assert scores.top(5) == [0, 2]
    assert scores.top(1) == [0]


ERRORS: list[RepcenterError] = [
    InvalidInput("candidates[3]", "x" * 500, "must not"),
    TooLarge("body", 9, 8, "bytes"),
    NotFound("scene", "s"),
    Conflict("two"),
    UnknownVersion("row", 2, 1),
    BrokenBundle("b"),
    Overloaded("rows", 2.5),
    Unavailable("gone"),
    DeadlineExceeded("late"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_errors_come_back_as_they_left(error: RepcenterError) -> None:
    body = problem(error, "/v1/score")
    again = error_of(body, 2.5 if isinstance(error, Overloaded) else None)
    assert type(again) is type(error)
    assert str(again) == str(error)
    if not isinstance(error, NotFound):  # kind and name stay in the text
        assert again.__dict__ == error.__dict__
    assert problem(again, "/v1/score") == body
    answer = http_error(body["status"], MEDIA_TYPE, orjson.dumps(body), "2.5")
    assert (type(answer), str(answer)) == (type(error), str(error))


def test_an_answer_of_somebody_else_is_an_error_all_the_same() -> None:
    error = http_error(502, "text/html", b"<h1>Bad gateway</h1>", None)
    assert type(error) is RepcenterError
    assert "502" in str(error)


@pytest.mark.parametrize("item_id", ["..", "a/b", "?", "#", "%2F", "ü 🎬", "nul\0l", "."])
def test_item_paths_are_one_segment(item_id: str) -> None:
    path = item_path(item_id)
    assert path.count("/") == 3
    assert httpx.URL("http://door" + path).raw_path.decode() == path
    assert httpx.URL("http://door" + path).path == "/v1/items/" + item_id


def test_items_carry_text_attributes_and_picture() -> None:
    attributes: dict[str, AttributeValue] = {"genre": "Crime|Drama", "price": 9.5, "tags": ["a", "b"]}
    item = Item("i1", {"title": "Heat"}, attributes, b"\x89PNG")
    document = orjson.loads(item_body(item))
    assert document == {
        "item_id": "i1",
        "text": {"title": "Heat"},
        "attributes": attributes,
        "image": base64.b64encode(b"\x89PNG").decode(),
    }
    message = item_message(item)
    assert (message.attributes["genre"].text, message.attributes["price"].number) == ("Crime|Drama", 9.5)
    assert list(message.attributes["tags"].tokens.values) == ["a", "b"]
    assert message.image == b"\x89PNG"
    assert not item_message(Item("i2")).HasField("image")
    named = Item("i3", image_url="s3://pictures/a.jpg")
    assert orjson.loads(item_body(named))["image_url"] == item_message(named).image_url == named.image_url


async def test_a_door_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        where = f"127.0.0.1:{held.getsockname()[1]}"
        async with (
            HttpClient(f"http://{where}", deadline_s=2) as http,
            GrpcClient(where, deadline_s=2) as rpc,
        ):
            for client in (http, rpc):
                with pytest.raises(Unavailable):
                    await client.score(ScoreRequest(["a"]))
                with pytest.raises(Unavailable):
                    await client.push(Item("a"))


async def test_a_door_that_says_nothing_is_a_missed_deadline() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(4)  # the kernel accepts, nobody answers
        where = f"127.0.0.1:{held.getsockname()[1]}"
        async with HttpClient(f"http://{where}") as http:
            with pytest.raises(DeadlineExceeded):
                await http.score(ScoreRequest(["a"]), deadline_s=0.05)
