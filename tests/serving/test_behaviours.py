"""Requests that name a user and give no behaviours rest on the stored ones, through both doors."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.errors import RepcenterError
from contracts.events import Event
from contracts.request import Behaviour, ScoreRequest
from param_server import keys
from param_server.behaviours import Behaviours
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD, HISTORY, HOSTILE, WITH_CONTENT, World, until

CANDIDATES = [*WITH_CONTENT[:12], *COLD[:2]]
USER = "ü{}\0"


async def stored(redis: Redis, item_ids: list[str], user: str = USER) -> list[Behaviour]:
    """Store them, the newest last -> the same as behaviours of a request."""
    events = [Event(user, item_id, 1_000 + n) for n, item_id in enumerate(item_ids)]
    await Behaviours(redis).append(events[::-1])  # late ones find their place
    return [Behaviour(e.item_id, e.timestamp_ms) for e in events]


async def test_stored_behaviours_score_as_given_ones(running: RunningScorer, world: World) -> None:
    given = await stored(world.redis, [*HOSTILE[:4], COLD[0], "never seen", *WITH_CONTENT[:5]])
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            named = await client.score(ScoreRequest(CANDIDATES, user_id=USER))
            told = await client.score(ScoreRequest(CANDIDATES, given, user_id=USER))
            np.testing.assert_array_equal(named.scores, told.scores)
            assert (named.completeness.behaviours_source, told.completeness.behaviours_source) == (
                "stored",
                "request",
            )
            assert named.completeness.behaviours_asked == told.completeness.behaviours_asked == 11
            assert named.completeness.behaviours_found == 10
            assert named.timings.fetch_ms <= named.timings.total_ms


async def test_the_newest_of_a_long_history_are_read(running: RunningScorer, world: World) -> None:
    given = await stored(world.redis, [WITH_CONTENT[n % 30] for n in range(3 * HISTORY)])
    async with HttpClient(running.http_url) as client:
        named = await client.score(ScoreRequest(CANDIDATES, user_id=USER))
        told = await client.score(ScoreRequest(CANDIDATES, given))
    np.testing.assert_array_equal(named.scores, told.scores)
    assert named.completeness.behaviours_asked == HISTORY


async def test_what_the_request_gives_wins(running: RunningScorer, world: World) -> None:
    await stored(world.redis, WITH_CONTENT[:9])
    given = [Behaviour(WITH_CONTENT[20])]
    async with HttpClient(running.http_url) as client:
        named = await client.score(ScoreRequest(CANDIDATES, given, user_id=USER))
        alone = await client.score(ScoreRequest(CANDIDATES, given))
        unknown = await client.score(ScoreRequest(CANDIDATES, user_id="nobody"))
        nothing = await client.score(ScoreRequest(CANDIDATES))
    np.testing.assert_array_equal(named.scores, alone.scores)
    assert named.completeness == alone.completeness
    np.testing.assert_array_equal(unknown.scores, nothing.scores)
    assert (unknown.completeness.behaviours_source, unknown.completeness.behaviours_asked) == ("stored", 0)
    assert nothing.completeness.behaviours_source == "request"


async def test_a_new_event_counts_at_the_next_request_and_a_forgotten_user_is_forgotten(
    running: RunningScorer, world: World
) -> None:
    request = ScoreRequest(CANDIDATES, user_id=USER)
    async with HttpClient(running.http_url) as client:
        empty = await client.score(request)
        for count in (1, 2, 3):
            await Behaviours(world.redis).append([Event(USER, WITH_CONTENT[count], count)])
            assert (await client.score(request)).completeness.behaviours_found == count
        await Behaviours(world.redis).forget(USER)
        np.testing.assert_array_equal((await client.score(request)).scores, empty.scores)


async def test_a_history_that_cannot_be_read_is_an_error_not_an_empty_one(
    running: RunningScorer, world: World
) -> None:
    await stored(world.redis, WITH_CONTENT[:2])
    _, key = keys.user(USER.encode())
    value = await world.redis.get(key)
    assert isinstance(value, bytes)
    await world.redis.set(key, b"\x07" + value[1:])
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(RepcenterError, match="version"):
                await client.score(ScoreRequest(CANDIDATES, user_id=USER))
    assert running.scorer.admission.in_flight == 0


async def test_rows_of_stored_behaviours_are_admitted_and_left(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    await stored(world.redis, WITH_CONTENT[:10])
    async with open_scorer(scorer_settings, settings) as scorer, HttpClient(scorer.http_url) as client:
        await until(scorer.readiness.is_ready)
        held = scorer_settings.max_concurrent_rows - len(CANDIDATES) - 5
        scorer.scorer.admission.enter(held)
        with pytest.raises(RepcenterError, match="overloaded"):
            await client.score(ScoreRequest(CANDIDATES, user_id=USER))
        assert scorer.scorer.admission.in_flight == held
        scorer.scorer.admission.leave(held)
        await client.score(ScoreRequest(CANDIDATES, user_id=USER))
        assert scorer.scorer.admission.in_flight == 0


async def test_it_can_be_turned_off(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    await stored(world.redis, WITH_CONTENT[:5])
    off = scorer_settings.model_copy(update={"stored_behaviours": False})
    async with open_scorer(off, settings) as scorer, HttpClient(scorer.http_url) as client:
        await until(scorer.readiness.is_ready)
        answer = await client.score(ScoreRequest(CANDIDATES, user_id=USER))
    assert (answer.completeness.behaviours_source, answer.completeness.behaviours_asked) == ("request", 0)


async def test_the_json_says_where_from(running: RunningScorer, world: World) -> None:
    await stored(world.redis, WITH_CONTENT[:3])
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        document: Any = (
            await http.post("/v1/score", json={"candidates": ["item-4"], "user_id": USER})
        ).json()
    assert document["completeness"]["behaviours_source"] == "stored"
    assert document["completeness"]["behaviours_asked"] == 3
