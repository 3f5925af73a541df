"""Several requests in one call; the policies for missing candidates; limits that the operator sets."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from contracts.errors import Conflict, InvalidInput, NotFound, Overloaded, RepcenterError, TooLarge
from contracts.request import Behaviour, MissingPolicy, ScoreRequest
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.scores import COLD, DEFAULT, MISSING, OK, Scores
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient, score_message
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD as COLD_IDS
from tests.serving.conftest import HOSTILE, World, until

KINDS: list[type[HttpClient | GrpcClient]] = [HttpClient, GrpcClient]
GOOD = ScoreRequest(["item-1", COLD_IDS[0], "never-seen", "item-2"], [Behaviour("item-3", 5)], user_id="u1")


def door(kind: type[HttpClient | GrpcClient], running: RunningScorer) -> HttpClient | GrpcClient:
    return kind(running.http_url if kind is HttpClient else running.grpc_target)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_request_has_its_own_outcome(running: RunningScorer, kind: Any) -> None:
    requests = [
        GOOD,
        ScoreRequest(["a", ""]),
        ScoreRequest(["item-1"], scene="nowhere"),
        ScoreRequest([]),
        ScoreRequest(["item-1"], timestamp_ms=3, behaviours=[Behaviour("item-2", 4)]),
        ScoreRequest(HOSTILE, [Behaviour(HOSTILE[0])]),
        ScoreRequest(["x"] * 2_001),
    ]
    async with door(kind, running) as client:
        alone = {n: await client.score(requests[n]) for n in (0, 3, 5)}
        outcomes = await client.score_many(requests)
        assert await client.score_many([]) == []
    assert len(outcomes) == len(requests)
    for n, outcome in enumerate(outcomes):
        if n in alone:
            assert isinstance(outcome, Scores)
            np.testing.assert_array_equal(outcome.scores, alone[n].scores)
            assert outcome.completeness == alone[n].completeness
    errors = {n: outcome for n, outcome in enumerate(outcomes) if isinstance(outcome, RepcenterError)}
    assert {n: type(e) for n, e in errors.items()} == {
        1: InvalidInput,
        2: NotFound,
        4: InvalidInput,
        6: TooLarge,
    }
    assert "candidates[1]" in str(errors[1])
    assert "2001" in str(errors[6])


async def test_json_that_cannot_be_read_is_refused_alone(running: RunningScorer) -> None:
    good = {"candidates": ["item-1"], "top_k": 1}
    bad: dict[str, tuple[Any, str]] = {
        "no object": (7, "body"),
        "no candidates": ({}, "candidates"),
        "a number": ({"candidates": ["a", 7]}, "candidates[1]"),
        "unknown": ({"candidates": [], "colour": 1}, "colour"),
        "NaN": ({"candidates": [], "deadline_ms": float("nan")}, "deadline_ms"),
        "huge": ({"candidates": [], "timestamp_ms": 10**40}, "timestamp_ms"),
        "policy": ({"candidates": [], "missing": "guess"}, "missing"),
    }
    body = json.dumps({"requests": [good, *(given for given, _ in bad.values()), good]})
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        answer = await http.post("/v1/score/many", content=body)
        assert answer.status_code == 200, answer.text
        outcomes = answer.json()["outcomes"]
        for outcome in (outcomes[0], outcomes[-1]):
            assert outcome["answer"]["top"][0]["item_id"] == "item-1"
        for (name, (_, field)), outcome in zip(bad.items(), outcomes[1:-1], strict=True):
            assert outcome["problem"]["status"] == 422, name
            assert outcome["problem"]["errors"][0]["field"] == field, name
        for whole in (b"{", b"[]", b"{}", b'{"requests": 1}', b'{"requests": [], "more": 1}', b"[" * 9_999):
            assert (await http.post("/v1/score/many", content=whole)).status_code == 422
        exposed = (await http.get("/metrics")).text
    assert 'request_duration_seconds_count{door="http",outcome="invalid"} 7.0' in exposed


@pytest.mark.parametrize("kind", KINDS)
async def test_a_conflict_and_an_overload_are_one_requests_own(running: RunningScorer, kind: Any) -> None:
    running.scorer.admission.enter(2_000)  # of 3,000 rows
    requests = [ScoreRequest(["item-1"] * 900), ScoreRequest(["item-1"] * 900), ScoreRequest(["item-2"])]
    async with door(kind, running) as client:
        first, second, third = await client.score_many(requests)
        assert isinstance(first, Scores)
        assert isinstance(second, Overloaded)
        assert second.retry_after_s == 1.0
        assert isinstance(third, Scores)
        (other,) = await client.score_many([GOOD], generation="g0")
        assert isinstance(other, Conflict)
    running.scorer.admission.leave(2_000)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_becomes_of_missing_candidates(running: RunningScorer, kind: Any) -> None:
    def with_policy(missing: MissingPolicy, score: float | None = None) -> ScoreRequest:
        return ScoreRequest(GOOD.candidates, GOOD.behaviours, missing=missing, default_score=score)

    async with door(kind, running) as client:
        masked = await client.score(GOOD)
        assert masked.statuses.tolist() == [OK, COLD, MISSING, OK]
        assert np.isnan(masked.scores[2])
        default = await client.score(with_policy("mask", 0.125))
        assert default.statuses.tolist() == [OK, COLD, DEFAULT, OK]
        assert default.status_names()[2] == "default"
        np.testing.assert_array_equal(default.scores, np.where(np.isnan(masked.scores), 0.125, masked.scores))
        assert default.completeness.candidates_found == 3
        with pytest.raises(NotFound, match=r"1 of 4 candidates, the first is 'never-seen'"):
            await client.score(with_policy("fail"))
        known = ScoreRequest(["item-1", COLD_IDS[0]], missing="fail")
        assert (await client.score(known)).statuses.tolist() == [OK, COLD]
        for score in (-0.1, 1.1):
            with pytest.raises(InvalidInput, match="default_score"):
                await client.score(with_policy("mask", score))
        with pytest.raises(InvalidInput, match="default_score"):
            await client.score(with_policy("fail", 0.5))


async def test_the_best_over_grpc(running: RunningScorer) -> None:
    async with GrpcClient(running.grpc_target) as client:
        message = score_message(GOOD)
        message.top_k = 2
        answer = await client._call(client._scorer.Score, message)
        order = [i for i in np.argsort(-np.array(answer.scores), kind="stable").tolist() if i != 2]
        assert [(t.item_id, t.position, t.score) for t in answer.top] == [
            (GOOD.candidates[i], i, answer.scores[i]) for i in order[:2]
        ]
        unknown = pb.ScoreRequest.FromString(b"\x60\x07")  # missing: 7
        for change in (pb.ScoreRequest(top_k=0), unknown):
            message = score_message(GOOD)
            message.MergeFrom(change)
            with pytest.raises(InvalidInput, match=r"top_k|missing"):
                await client._call(client._scorer.Score, message)


async def test_limits_are_the_operators(world: World, settings: StoreSettings) -> None:
    small = ScorerSettings(
        http_port=0,
        grpc_port=0,
        poll_s=0.02,
        workers=1,
        drain_s=0,
        kernels=False,
        max_candidates=3,
        max_behaviours=2,
        max_requests=2,
        max_concurrent_rows=5,
    )
    async with open_scorer(small, settings) as running:
        await until(running.readiness.is_ready)
        for kind in KINDS:
            async with door(kind, running) as client:
                assert len((await client.score(ScoreRequest(["item-1"] * 3))).scores) == 3
                with pytest.raises(TooLarge, match="4 items exceed the limit of 3"):
                    await client.score(GOOD)
                with pytest.raises(TooLarge, match="behaviours: 3 items exceed the limit of 2"):
                    await client.score(ScoreRequest(["a"], [Behaviour("b")] * 3))
                with pytest.raises(TooLarge, match="requests: 3 requests exceed the limit of 2"):
                    await client.score_many([GOOD] * 3)
    with pytest.raises(ValidationError, match="a largest request would never be admitted"):
        ScorerSettings(max_candidates=30_000)
