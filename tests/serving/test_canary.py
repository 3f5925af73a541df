"""A second generation for a share of users: who gets it, what answers say, how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import httpx
import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.errors import Conflict
from contracts.request import Behaviour, ScoreRequest
from param_server.scene_pointer import Canary
from serving.app import RunningScorer
from serving.client import GrpcClient, HttpClient
from tests.ranker_bundle import recompute
from tests.serving.conftest import SPACE, WITH_CONTENT, World, until
from tests.serving.test_swaps import serves

USERS = [f"user-{n}" for n in range(40)]


def asked(user: str | None) -> ScoreRequest:
    return ScoreRequest(WITH_CONTENT[:6], [Behaviour("item-30")], user_id=user)


async def test_a_canary_begins_under_load_is_widened_and_promoted(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    """Each user gets the generation of the hash; every answer is right for what it names."""
    records, id_rows = await world.records(), await world.id_rows()
    first, second = world.generation.id, await world.publish(bundles[1])
    expected = {
        generation: recompute(bundle, SPACE, asked(None), records, id_rows)
        for generation, bundle in ((first, bundles[0]), (second, bundles[1]))
    }

    async def answers(client: HttpClient | GrpcClient) -> dict[str, str]:
        got = {}
        for user in USERS:
            answer = await client.score(asked(user))
            np.testing.assert_allclose(answer.scores, expected[answer.generation], rtol=0, atol=1e-6)
            got[user] = answer.generation
        return got

    async def tried(share: float) -> bool:
        trial = running.live.serving()["default"].trial
        return trial is not None and trial.canary.share == share

    stop = asyncio.Event()

    async def ask(client: HttpClient) -> None:
        while not stop.is_set():
            answer = await client.score(asked("user-1"))
            np.testing.assert_allclose(answer.scores, expected[answer.generation], rtol=0, atol=1e-6)

    async with (
        HttpClient(running.http_url) as http,
        GrpcClient(running.grpc_target) as rpc,
        asyncio.TaskGroup() as load,
    ):
        load.create_task(ask(http))
        for share in (0.3, 0.6):
            await world.generations.canary("default", second, share)
            await until(partial(tried, share))
            rule = Canary(second, share, second)
            chosen = {user: second if rule.takes(b"u" + user.encode()) else first for user in USERS}
            assert set(chosen.values()) == {first, second}
            assert await answers(http) == chosen
            assert await answers(rpc) == chosen
        for n in range(8):
            by_id = second if rule.takes(b"r" + str(n).encode()) else first
            answer = await http.score(replace(asked(None), request_id=str(n)))
            assert answer.generation == by_id
        unnamed = [await http.score(asked(None)) for _ in range(60)]
        assert {answer.generation for answer in unnamed} == {first, second}
        for answer in unnamed:  # by the id that it was given
            by_id = second if rule.takes(b"r" + answer.request_id.encode()) else first
            assert answer.generation == by_id
        tensors = {
            "inputs": [
                {"name": "candidates", "datatype": "BYTES", "shape": [40, 1], "data": [["item-1"]] * 40},
                {"name": "user_id", "datatype": "BYTES", "shape": [40], "data": USERS},
            ]
        }
        async with httpx.AsyncClient(base_url=running.http_url) as raw:
            together = (await raw.post("/v2/models/default/infer", json=tensors)).json()
        assert together["model_version"] == chosen[USERS[0]]  # one answer, one generation
        assert len(set(together["outputs"][0]["data"])) == 1
        for generation in (first, second):
            assert (await rpc.score(asked("user-1"), generation=generation)).generation == generation
        with pytest.raises(Conflict, match="not 'gother'"):
            await http.score(asked("user-1"), generation="gother")
        metrics = await exposed(running)
        assert f'repcenter_canary_share{{generation="{second}",scene="default"}} 0.6' in metrics
        assert f'repcenter_generation_candidates_total{{generation="{second}",result="ok"' in metrics
        loaded = running.live.pin("default", second)
        await world.generations.promote("default")
        await until(partial(serves, running, second))
        assert running.live.pin("default") is loaded  # not loaded again
        assert set((await answers(http)).values()) == {second}
        stop.set()
    metrics = await exposed(running)
    assert first not in metrics
    assert "repcenter_canary_share{" not in metrics


async def test_an_aborted_canary_and_one_that_does_not_load(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    first, second = world.generation.id, await world.publish(bundles[1])

    async def tries(generation: str | None) -> bool:
        trial = running.live.serving()["default"].trial
        return (trial.loaded.id if trial else None) == generation

    await world.generations.canary("default", second, 0.5)
    await until(partial(tries, second))
    await world.generations.abort("default")
    await until(partial(tries, None))
    missing = await world.publish(bundles[1], created_ms=1_900_000_000_000)
    await world.redis.hset("rc2:{c}:generations", missing, b"{}")  # no scorer can read it
    await world.generations.canary("default", missing, 0.999)

    async def refused() -> bool:
        return 'repcenter_generation_refusals_total{scene="default"} ' in await exposed(running)

    await until(refused)
    async with HttpClient(running.http_url) as http:
        assert {(await http.score(asked(user))).generation for user in USERS[:5]} == {first}
    assert await running.readiness.is_ready()


async def exposed(running: RunningScorer) -> str:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        return (await http.get("/metrics")).text
