"""Bad input names the field and the value over both doors, and never takes a neighbour down."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from contracts.errors import InvalidInput, RepcenterError, TooLarge
from contracts.request import Behaviour, ScoreRequest
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.serving.conftest import World, until

BAD_JSON: dict[str, tuple[bytes | dict[str, Any], int, str, str]] = {
    # name: body, status, field, part of the value or reason
    "not json": (b"{", 422, "body", "Invalid JSON"),
    "not utf-8": (b'{"candidates": ["\xff"]}', 422, "body", "unicode"),
    "empty": (b"", 422, "body", "Invalid JSON"),
    "an array": (b"[]", 422, "body", "[]"),
    "deep": (b"[" * 10_000, 422, "body", "recursion"),
    "no candidates": ({}, 422, "candidates", "required"),
    "candidates null": ({"candidates": None}, 422, "candidates", "None"),
    "candidates text": ({"candidates": "item-1"}, 422, "candidates", "item-1"),
    "candidate number": ({"candidates": ["a", 7]}, 422, "candidates[1]", "7"),
    "candidate object": ({"candidates": [{"id": "a"}]}, 422, "candidates[0]", "{'id': 'a'}"),
    "candidate empty": ({"candidates": ["a", ""]}, 422, "candidates[1]", "''"),
    "candidate surrogate": (b'{"candidates": ["\\ud800"]}', 422, "body", "Invalid JSON"),
    "candidate long": ({"candidates": ["x" * 257]}, 413, "candidates[0]", "257"),
    "candidate long in bytes": ({"candidates": ["映" * 86]}, 413, "candidates[0]", "258"),
    "too many candidates": ({"candidates": ["a"] * 2001}, 413, "candidates", "2001"),
    "too many behaviours": (
        {"candidates": [], "behaviours": [{"item_id": "a"}] * 1001},
        413,
        "behaviours",
        "1001",
    ),
    "behaviour text": ({"candidates": [], "behaviours": ["a"]}, 422, "behaviours[0]", "'a'"),
    "behaviour nameless": ({"candidates": [], "behaviours": [{}]}, 422, "behaviours[0].item_id", "required"),
    "behaviour extra": (
        {"candidates": [], "behaviours": [{"item_id": "a", "weight": 2}]},
        422,
        "behaviours[0].weight",
        "2",
    ),
    "timestamp NaN": (
        b'{"candidates": [], "behaviours": [{"item_id": "a", "timestamp_ms": NaN}]}',
        422,
        "behaviours[0].timestamp_ms",
        "nan",
    ),
    "timestamp float": (
        {"candidates": [], "behaviours": [{"item_id": "a", "timestamp_ms": 1.5}]},
        422,
        "behaviours[0].timestamp_ms",
        "1.5",
    ),
    "timestamp bool": (
        {"candidates": [], "behaviours": [{"item_id": "a", "timestamp_ms": True}]},
        422,
        "behaviours[0].timestamp_ms",
        "True",
    ),
    "timestamp negative": (
        {"candidates": [], "behaviours": [{"item_id": "a", "timestamp_ms": -1}]},
        422,
        "behaviours[0].timestamp_ms",
        "-1",
    ),
    "timestamp huge": (
        b'{"candidates": [], "behaviours": [{"item_id": "a", "timestamp_ms": ' + b"9" * 40 + b"}]}",
        422,
        "behaviours[0].timestamp_ms",
        "9999",
    ),
    "timestamps go back": (
        {
            "candidates": [],
            "behaviours": [{"item_id": "a", "timestamp_ms": 5}, {"item_id": "b", "timestamp_ms": 4}],
        },
        422,
        "behaviours[1].timestamp_ms",
        "4",
    ),
    "scene empty": ({"candidates": [], "scene": ""}, 422, "scene", "''"),
    "scene number": ({"candidates": [], "scene": 3}, 422, "scene", "3"),
    "user empty": ({"candidates": [], "user_id": ""}, 422, "user_id", "''"),
    "deadline zero": ({"candidates": [], "deadline_ms": 0}, 422, "deadline_ms", "0"),
    "deadline NaN": (b'{"candidates": [], "deadline_ms": NaN}', 422, "deadline_ms", "nan"),
    "deadline endless": ({"candidates": [], "deadline_ms": 1e12}, 422, "deadline_ms", "1000000000000"),
    "top_k zero": ({"candidates": [], "top_k": 0}, 422, "top_k", "0"),
    "columns a list": ({"candidates": [], "user": ["age"]}, 422, "user", "['age']"),
    "columns null": ({"candidates": [], "context": None}, 422, "context", "None"),
    "column null": ({"candidates": [], "user": {"age": None}}, 422, "user.age", "None"),
    "column bool": ({"candidates": [], "context": {"new": True}}, 422, "context.new", "True"),
    "column object": ({"candidates": [], "user": {"{a}": {}}}, 422, "user.{a}", "{}"),
    "column NaN": (b'{"candidates": [], "user": {"age": NaN}}', 422, "user.age", "nan"),
    "column 1e308": ({"candidates": [], "user": {"age": 1e308}}, 422, "user.age", "1e+308"),
    "column 2^63": (
        b'{"candidates": [], "user": {"n": 9223372036854775808}}',
        422,
        "user.n",
        "9223372036854",
    ),
    "column huge": (b'{"candidates": [], "user": {"n": ' + b"9" * 400 + b"}}", 422, "user.n", "9999"),
    "column of numbers": ({"candidates": [], "user": {"t": ["a", 1]}}, 422, "user.t", "1"),
    "column long": ({"candidates": [], "context": {"t": "x" * 20_001}}, 413, "context.t", "20001"),
    "column of many": ({"candidates": [], "context": {"t": ["a"] * 257}}, 413, "context.t", "257"),
    "column nameless": ({"candidates": [], "user": {"": 1}}, 422, "user", "''"),
    "column name long": ({"candidates": [], "user": {"x" * 10_000: 1}}, 422, "user", "xxx"),
    "too many columns": ({"candidates": [], "user": {f"f{n}": 1 for n in range(65)}}, 413, "user", "65"),
    "request time negative": ({"candidates": [], "timestamp_ms": -1}, 422, "timestamp_ms", "-1"),
    "request time float": ({"candidates": [], "timestamp_ms": 1.5}, 422, "timestamp_ms", "1.5"),
    "request time text": ({"candidates": [], "timestamp_ms": "now"}, 422, "timestamp_ms", "now"),
    "request time 2^63": (
        b'{"candidates": [], "timestamp_ms": 9223372036854775808}',
        422,
        "timestamp_ms",
        "92",
    ),
    "request time early": (
        {"candidates": [], "timestamp_ms": 4, "behaviours": [{"item_id": "a", "timestamp_ms": 5}]},
        422,
        "timestamp_ms",
        "4",
    ),
    "query a vector": ({"candidates": [], "query": [1.0]}, 422, "query", "[1.0]"),
    "query number": ({"candidates": [], "query": {"text": 1}}, 422, "query.text", "1"),
    "query text": ({"candidates": [], "query": {"text": [1, "2"]}}, 422, "query.text", "'2'"),
    "query NaN": (b'{"candidates": [], "query": {"text": [NaN]}}', 422, "query.text", "nan"),
    "query 1e308": ({"candidates": [], "query": {"text": [1e308]}}, 422, "query.text", "1e+308"),
    "query long": ({"candidates": [], "query": {"text": [0.5] * 4097}}, 413, "query.text", "4097"),
    "query name long": ({"candidates": [], "query": {"x" * 10_000: []}}, 422, "query", "xxx"),
    "unknown field": ({"candidates": [], "candidate": ["a"]}, 422, "candidate", "['a']"),
}


@pytest.mark.parametrize("name", list(BAD_JSON))
async def test_http_names_field_and_value(running: RunningScorer, name: str) -> None:
    body, status, field, told = BAD_JSON[name]
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        answer = await http.post("/v1/score", content=body if isinstance(body, bytes) else orjson.dumps(body))
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert problem["instance"] == "/v1/score"
        first = problem["errors"][0]
        assert first["field"] == field
        assert told in f"{first['value']} {first['reason']}"
        assert len(answer.content) < 8_192
        neighbour = await http.post("/v1/score", json={"candidates": ["item-1"]})
        assert neighbour.json()["statuses"] == ["ok"]


BAD_REQUESTS: dict[str, tuple[ScoreRequest, type[RepcenterError], str]] = {
    "candidate empty": (ScoreRequest(["a", ""]), InvalidInput, "candidates[1]"),
    "candidate long": (ScoreRequest(["x" * 257]), TooLarge, "candidates[0]"),
    "too many candidates": (ScoreRequest(["a"] * 2001), TooLarge, "candidates"),
    "behaviour empty": (ScoreRequest([], [Behaviour("")]), InvalidInput, "behaviours[0].item_id"),
    "timestamp negative": (
        ScoreRequest([], [Behaviour("a", -5)]),
        InvalidInput,
        "behaviours[0].timestamp_ms",
    ),
    "timestamps go back": (
        ScoreRequest([], [Behaviour("a", 5), Behaviour("a", 4)]),
        InvalidInput,
        "behaviours[1].timestamp_ms",
    ),
    "user empty": (ScoreRequest([], user_id=""), InvalidInput, "user_id"),
    "column 1e308": (ScoreRequest([], user={"age": 1e308}), InvalidInput, "user.age"),
    "column of many": (ScoreRequest([], context={"{t}": ["a"] * 257}), TooLarge, "context.{t}"),
    "column nameless": (ScoreRequest([], context={"": "a"}), InvalidInput, "context"),
    "request time early": (
        ScoreRequest([], [Behaviour("a", 5)], timestamp_ms=4),
        InvalidInput,
        "timestamp_ms",
    ),
    "query long": (ScoreRequest([], query={"text": [0.5] * 4097}), TooLarge, "query.text"),
    "query name long": (ScoreRequest([], query={"x" * 129: []}), InvalidInput, "query"),
}


@pytest.mark.parametrize("name", list(BAD_REQUESTS))
async def test_the_client_raises_the_same_typed_error_over_both_doors(
    running: RunningScorer, name: str
) -> None:
    request, error, field = BAD_REQUESTS[name]
    said = []
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(error) as caught:
                await client.score(request)
            assert caught.value.field == field  # type: ignore[attr-defined]
            said.append((str(caught.value), caught.value.__dict__))
    assert said[0] == said[1]


async def test_bodies_are_refused_by_size_before_they_are_parsed(running: RunningScorer) -> None:
    limit = 4 << 20

    async def endless() -> Any:
        for _ in range(limit // 65_536 + 2):
            yield b"[" * 65_536

    async with httpx.AsyncClient(base_url=running.http_url) as http:
        declared = await http.post("/v1/score", content=b"[" * (limit + 1))
        counted = await http.post("/v1/score", content=endless())
        for answer in (declared, counted):
            assert answer.status_code == 413
            assert answer.json()["errors"][0] == {
                "field": "body",
                "value": answer.json()["errors"][0]["value"],
                "reason": f"limit {limit}",
            }
        assert declared.json()["errors"][0]["value"] == limit + 1
        assert (await http.post("/v1/score", json={"candidates": ["item-1"]})).status_code == 200


async def test_paths_and_methods_that_are_not_there(running: RunningScorer) -> None:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        absent = await http.get("/v2/score")
        wrong = await http.get("/v1/score")
    for answer, status in ((absent, 404), (wrong, 405)):
        assert answer.status_code == answer.json()["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["instance"] == answer.request.url.path
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "body",
    [
        {str(i): 0 for i in range(5_000)},
        {"candidates": [], "contents": {str(i): 0 for i in range(5_000)}, "missing": "encode"},
        {"candidates": [], "contents": {"a": {str(i): 0 for i in range(5_000)}}, "missing": "encode"},
        {"candidates": [], "query": {str(i): 0 for i in range(5_000)}},
    ],
    ids=["fields", "contents", "fields of a content", "queries"],
)
async def test_thousands_of_errors_are_one(running: RunningScorer, body: dict[str, object]) -> None:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        answer = await http.post("/v1/score", json=body)
        assert answer.status_code in (413, 422)
        assert len(answer.json()["errors"]) == 1
        many = await http.post("/v1/score/many", json={"requests": [body]})
        assert len(many.json()["outcomes"][0]["problem"]["errors"]) == 1
        assert (await http.post("/v1/score/many", json={"requests": [0] * 5_000})).status_code == 413


async def test_calls_in_flight_are_bounded(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    """One whose body does not come holds a place; what is asked by GET does not."""
    few = scorer_settings.model_copy(update={"max_calls": 1})
    async with open_scorer(few, settings) as scorer:
        await until(scorer.readiness.is_ready)
        host, port = scorer.http_url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        await writer.drain()
        async with httpx.AsyncClient(base_url=scorer.http_url) as http:

            async def refused() -> bool:
                answer = await http.post("/v1/score", json={"candidates": []})
                return answer.status_code == 429 and "calls are in flight" in answer.text

            await until(refused)
            assert (await http.get("/health/ready")).status_code == 200
            writer.close()

            async def answered() -> bool:
                return (await http.post("/v1/score", json={"candidates": []})).status_code == 200

            await until(answered)
