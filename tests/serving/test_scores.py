"""HTTP == gRPC == a recomputation in plain numpy from the stored bytes; what is missing is said."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from contracts.codec import tombstones
from contracts.errors import InvalidInput, TooLarge
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import Completeness
from contracts.window import Window
from param_server.windows import Windows
from serving.app import RunningScorer
from serving.client import GrpcClient, HttpClient
from tests.ranker_bundle import recompute
from tests.serving.conftest import COLD, HISTORY, HOSTILE, WITH_CONTENT, World, until

UNKNOWN = ["never-seen", "auch nie"]
REQUESTS = {
    "everything": ScoreRequest(
        [*WITH_CONTENT, *COLD, *UNKNOWN],
        [
            Behaviour(i, 1_000 + n)
            for n, i in enumerate([*HOSTILE[:5], COLD[0], UNKNOWN[0], *WITH_CONTENT[:4]])
        ],
        user_id="u1",
    ),
    "no behaviours": ScoreRequest(["item-1", COLD[1], UNKNOWN[1], "item-30"]),
    "one of each": ScoreRequest(["item-7"], [Behaviour("item-8")]),
    "longer than the history": ScoreRequest(
        WITH_CONTENT[:10], [Behaviour(WITH_CONTENT[n % 45], n) for n in range(3 * HISTORY)]
    ),
    "duplicates": ScoreRequest(
        ["item-2", "item-2", COLD[2], "item-2", COLD[2]], [Behaviour("item-2")] * 3 + [Behaviour("item-9")]
    ),
    "only unknown": ScoreRequest(UNKNOWN, [Behaviour(UNKNOWN[0])]),
}


@pytest.mark.parametrize("name", list(REQUESTS))
async def test_both_doors_equal_the_recomputation(running: RunningScorer, world: World, name: str) -> None:
    request = REQUESTS[name]
    records, id_rows = await world.records(), await world.id_rows()
    expected = recompute(world.bundle, world.generation.space, request, records, id_rows)
    statuses = ["ok" if c in records else "cold" if c in id_rows else "missing" for c in request.candidates]
    newest = [b.item_id for b in request.behaviours][-HISTORY:]
    known = {*records, *id_rows}
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            answer = await client.score(request)
            np.testing.assert_allclose(answer.scores, expected, rtol=0, atol=1e-6)
            assert answer.status_names() == statuses
            assert np.isnan(answer.scores).tolist() == [s == "missing" for s in statuses]
            assert (answer.scene, answer.generation) == ("default", world.generation.id)
            assert answer.completeness == Completeness(
                behaviours_asked=len(newest),
                behaviours_found=sum(i in known for i in newest),
                candidates_asked=len(statuses),
                candidates_found=len(statuses) - statuses.count("missing"),
            )
            assert 0 < answer.timings.run_ms <= answer.timings.total_ms


async def test_histories_keep_their_newest_behaviours(running: RunningScorer) -> None:
    """The same newest ones give the same scores; other newest ones do not."""
    newest = [Behaviour(f"item-{i}") for i in range(HISTORY)]
    older = [Behaviour(f"item-{30 + i % 10}") for i in range(50)]
    async with HttpClient(running.http_url) as client:
        alone = await client.score(ScoreRequest(WITH_CONTENT, newest))
        after_older = await client.score(ScoreRequest(WITH_CONTENT, older + newest))
        before_older = await client.score(ScoreRequest(WITH_CONTENT, newest + older))
    np.testing.assert_array_equal(alone.scores, after_older.scores)
    assert np.abs(alone.scores - before_older.scores).max() > 1e-3


async def test_no_candidates_no_work(running: RunningScorer) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            answer = await client.score(ScoreRequest([], [Behaviour("item-1")]))
            assert answer.scores.shape == (0,)
            assert answer.status_names() == []
            assert answer.timings.run_ms == 0


async def test_the_json_answer(running: RunningScorer, world: World) -> None:
    """null where missing, top-k by score, the generation and the timings in headers too."""
    candidates = ["item-4", "never-seen", "item-5", COLD[0]]
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        answer = await http.post("/v1/score", json={"candidates": candidates, "top_k": 10})
    document = answer.json()
    assert answer.headers["x-generation"] == document["generation"] == world.generation.id
    assert answer.headers["server-timing"].startswith("queue;dur=")
    assert document["scores"][1] is None
    assert document["statuses"] == ["ok", "missing", "ok", "cold"]
    order = sorted((0, 2, 3), key=lambda i: -document["scores"][i])
    assert document["top"] == [
        {"item_id": candidates[i], "position": i, "score": document["scores"][i]} for i in order
    ]
    assert set(document["timings_ms"]) == {"queue", "fetch", "assemble", "run", "total", "encode"}


async def test_a_deleted_item_is_not_scored_by_its_content(running: RunningScorer, world: World) -> None:
    space = world.generation.space
    gone = ["item-1", "item-30"]  # with and without an ID row
    async with HttpClient(running.http_url) as client:
        assert (await client.score(ScoreRequest(gone))).status_names() == ["ok", "ok"]
        rows = tombstones(space.dtype, np.array([1_000, 1_001], dtype=np.uint64))
        windows = Windows(world.store, world.redis, 10)
        await windows.announce(await windows.commit(Window(space, gone, rows, 0)))

        async def seen() -> bool:
            return (await client.score(ScoreRequest(gone))).status_names() == ["cold", "missing"]

        await until(seen)


async def test_a_request_keeps_its_id_or_is_given_one(running: RunningScorer) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            for candidates in (["item-1"], []):
                named = await client.score(ScoreRequest(candidates, request_id="page {7}\0"))
                given = [(await client.score(ScoreRequest(candidates))).request_id for _ in range(2)]
                assert named.request_id == "page {7}\0"
                assert len(set(given)) == 2
                assert all(len(name) == 32 for name in given)
            with pytest.raises(InvalidInput, match="request_id"):
                await client.score(ScoreRequest(["item-1"], request_id=""))
            with pytest.raises(TooLarge, match="request_id"):
                await client.score(ScoreRequest(["item-1"], request_id="x" * 257))
