"""A ranker that reads every optional input: HTTP == gRPC == torch, each input counts, misfits are refused."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.bundle import Bundle, seal
from contracts.errors import BrokenBundle, Conflict, InvalidInput
from contracts.ranker_spec import RankerSpec, ranker_spec_from_json
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import Completeness
from contracts.space import Modality
from param_server import keys
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.loaded import check_spec, load_generation
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD, HISTORY, SPACE, WITH_CONTENT, World, fill, until
from tests.serving.full_ranker import SCHEMA, make_bundle, make_ranker, offline
from training.models.ranker import Ranker

ROOT = Path(__file__).parents[2]
AT = 1_700_000_000_000
HISTORY_OF_ALL = [
    Behaviour("item-3", AT - 40_000_000_000),
    Behaviour(COLD[0], AT - 300_000_000),
    Behaviour("item-8"),
    Behaviour("never-seen", AT - 100_000),
    Behaviour("item-4", AT - 10_000),
    Behaviour("item-30", AT),
]
TEXT = np.random.default_rng(1).normal(size=16).tolist()
IMAGE = np.random.default_rng(2).normal(size=16).tolist()
ALL = ScoreRequest(
    [*WITH_CONTENT, *COLD, "never-seen"],
    HISTORY_OF_ALL,
    user_id="u1",
    user={"age": 61, "tastes": ["Crime", "日本", "{x}"], "nobody reads": "this"},
    context={"device": "tv", "hour": 13.5},
    timestamp_ms=AT,
    query={"text": TEXT, "image": IMAGE},
)
REQUESTS = {
    "everything": ALL,
    "nothing": ScoreRequest(ALL.candidates),
    "no search": replace(ALL, query={}),
    "an empty and a zero vector": replace(ALL, query={"text": [], "image": [0.0] * 16}),
    "half a search": replace(ALL, query={"image": IMAGE}),
    "a search that nothing reads": replace(ALL, query={"fused": TEXT}),
    "a search that is long": replace(ALL, query={"text": [1e30 * x for x in TEXT]}),
    "a user alone": ScoreRequest(ALL.candidates, user={"age": -1e30, "tastes": "a|b|c|d|e"}),
    "a context alone": ScoreRequest(ALL.candidates, context={"device": "radio", "hour": 0}),
    "now": ScoreRequest(["item-1", "item-2"], [Behaviour("item-9", AT), Behaviour("item-3")]),
    "longer than the history": replace(
        ALL, behaviours=[Behaviour(f"item-{n % 40}", AT - (100 - n) * 60_000) for n in range(3 * HISTORY)]
    ),
}


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return make_ranker()


@pytest.fixture(scope="module")
def bundle(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("full") / "ranker", ranker)


@pytest_asyncio.fixture
async def world(redis: Redis, bundle: Bundle) -> World:
    return await fill(redis, bundle)


@pytest_asyncio.fixture
async def running(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> AsyncIterator[RunningScorer]:
    async with open_scorer(scorer_settings, settings) as scorer:
        await until(scorer.readiness.is_ready)
        yield scorer


@pytest.mark.parametrize("name", list(REQUESTS))
async def test_both_doors_equal_torch(
    running: RunningScorer, world: World, ranker: Ranker, name: str
) -> None:
    request = REQUESTS[name]
    now_ms = int(time.time() * 1e3)
    expected = offline(ranker, request, await world.records(), await world.id_rows(), now_ms)
    answers = []
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            answer = await client.score(request)
            np.testing.assert_allclose(answer.scores, expected, rtol=0, atol=1e-4)
            assert answer.completeness.columns_asked == 4
            answers.append(answer.scores)
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.nanstd(expected) > 1e-3


CHANGES: dict[str, dict[str, Any]] = {
    "age": {"user": {**ALL.user, "age": 20}},
    "tastes": {"user": {**ALL.user, "tastes": ["Comedy"]}},
    "no user": {"user": {}},
    "device": {"context": {**ALL.context, "device": "phone"}},
    "hour": {"context": {**ALL.context, "hour": 3}},
    "no context": {"context": {}},
    "time of the request": {"timestamp_ms": AT + 86_400_000},
    "times of the behaviours": {"behaviours": [Behaviour(b.item_id) for b in HISTORY_OF_ALL]},
    "text of the search": {"query": {"text": [-x for x in TEXT], "image": IMAGE}},
    "picture of the search": {"query": {"text": TEXT}},
    "no search": {"query": {}},
}


@pytest.mark.parametrize("name", CHANGES)
async def test_every_input_of_a_request_counts(running: RunningScorer, name: str) -> None:
    as_given = (await running.scorer.score(ALL)).scores
    changed = (await running.scorer.score(replace(ALL, **CHANGES[name]))).scores
    assert np.nanmax(np.abs(as_given - changed)) > 1e-4


async def test_the_evidence_behind_an_id_row_counts(running: RunningScorer, world: World) -> None:
    running.scorer._rows = world.store  # what changes here never changes in service: a row of a sealed table
    before = (await running.scorer.score(ALL)).scores
    table, item_id = world.generation.id_table, COLD[1].encode()
    family = keys.id_rows(table.name, table.rows)
    key = family.key_of(item_id)
    row = (await world.id_rows())[COLD[1]]
    changed = row[:2] + np.float16(9).tobytes() + row[4:]  # 8,100 examples
    await cast(Any, world.redis.hset(cast(str, key), cast(str, item_id), cast(str, changed)))
    moved = np.abs((await running.scorer.score(ALL)).scores - before) > 1e-4
    assert [ALL.candidates[n] for n in np.flatnonzero(moved).tolist()] == [COLD[1]]


async def test_the_command_line_sends_columns_and_a_search(running: RunningScorer, tmp_path: Path) -> None:
    (tmp_path / "query.json").write_text(json.dumps({"text": TEXT}))
    request = ScoreRequest(
        ["item-1", "item-2", COLD[0]],
        user={"age": 61, "tastes": "Crime|a=b"},
        context={"device": "tv", "hour": 13.5, "sky": "nan"},
        query={"text": TEXT},
    )

    async def ask(*more: str) -> tuple[int | None, str, str]:
        words = ["-m", "cli.main", "score", *request.candidates, "--url", running.http_url, "--json", *more]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode(), err.decode()

    code, out, err = await ask(
        *("--user", "age=61", "-u", "tastes=Crime|a=b", "--context", "device=tv", "-c", "hour=13.5"),
        *("-c", "sky=nan", "--query-file", str(tmp_path / "query.json")),
    )
    assert code == 0, err
    scores = {row["item_id"]: row["score"] for row in json.loads(out)["scores"]}
    expected = (await running.scorer.score(request)).scores
    np.testing.assert_allclose([scores[c] for c in request.candidates], expected, rtol=1e-6)
    (tmp_path / "list.json").write_text("[1, 2]")
    for words, told in (
        (["--user", "age"], "--user: must be name=value"),
        (["--context", "=3"], "--context: must be name=value"),
        (["--query-file", str(tmp_path / "list.json")], "--query-file: must hold an object"),
        (["--query-file", str(tmp_path / "absent")], "--query-file: is not a JSON file"),
        (["--user", "age=old"], "user.age: must be a number"),
    ):
        code, out, err = await ask(*words)
        assert (code, out) == (1, "")
        assert told in err
        assert "Traceback" not in err


async def test_the_request_says_how_much_of_the_columns_it_told(running: RunningScorer) -> None:
    told: list[tuple[dict[str, Any], dict[str, Any], int]] = [
        ({}, {}, 0),
        ({"age": 0}, {}, 1),
        ({"age": 1, "tastes": "a"}, {"device": "never heard of", "hour": 1}, 4),
        ({"tastes": []}, {"device": " | "}, 0),
        ({"device": "tv"}, {"age": 7}, 0),  # each on the wrong side
    ]
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for user, context, found in told:
            for client in (http, rpc):
                answer = await client.score(ScoreRequest(["item-1"], user=user, context=context))
                assert answer.completeness == Completeness(0, 0, 1, 1, columns_asked=4, columns_found=found)
    async with httpx.AsyncClient(base_url=running.http_url) as raw:
        document = (await raw.post("/v1/score", json={"candidates": ["item-1"], "user": {"age": 3}})).json()
    assert document["completeness"]["columns_asked"] == 4
    assert document["completeness"]["columns_found"] == 1


BAD: dict[str, tuple[ScoreRequest, str, str]] = {
    "a word for a number": (ScoreRequest(["item-1"], user={"age": "old"}), "user.age", "must be a number"),
    "tokens for a number": (
        ScoreRequest(["item-1"], context={"hour": ["9"]}),
        "context.hour",
        "must be a number",
    ),
    "a vector of another width": (
        ScoreRequest(["item-1"], query={"text": [1.0] * 15}),
        "query.text",
        "must have 16 numbers",
    ),
    "no such modality": (ScoreRequest(["item-1"], query={"sound": [1.0]}), "query.sound", "is not one of"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_the_ranker_cannot_read_is_named_over_both_doors(
    running: RunningScorer, name: str
) -> None:
    request, field, told = BAD[name]
    said = []
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(InvalidInput, match=told) as caught:
                await client.score(request)
            assert caught.value.field == field
            said.append(str(caught.value))
            assert (await client.score(ScoreRequest(["item-1"]))).status_names() == ["ok"]
    assert said[0] == said[1]
    assert running.scorer.admission.in_flight == 0


def test_a_ranker_that_reads_a_search_of_other_modalities_is_refused(bundle: Bundle, world: World) -> None:
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    check_spec(spec, world.generation)
    check_spec(replace(spec, schema=replace(spec.schema, query=())), world.generation)
    for query in (SPACE.modalities[:2], SPACE.modalities[::-1], (Modality("text", 8), *SPACE.modalities[1:])):
        with pytest.raises(Conflict, match="reads queries of"):
            check_spec(replace(spec, schema=replace(spec.schema, query=query)), world.generation)


def resealed(bundle: Bundle, directory: Path, **changes: Any) -> Bundle:
    """The same files under a schema that differs."""
    shutil.copytree(bundle.path, directory)
    (directory / "manifest.json").unlink()
    spec: RankerSpec = ranker_spec_from_json(json.loads(json.dumps(dict(bundle.manifest.content))))
    return seal(directory, "ranker", replace(spec, schema=replace(SCHEMA, **changes)).to_json())


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "no gaps": ({"time_gaps": False}, r"the graph reads \['gaps'\], which its schema lacks"),
    "no columns": ({"user": (), "context": ()}, r"reads \['context', 'context_values'\]"),
    "no search": ({"query": ()}, r"reads \['query_codes', 'query_inv_norm'\]"),
    "a column fewer": ({"user": SCHEMA.user[:1]}, "the graph cannot run its schema"),
    "a column more": ({"context": (*SCHEMA.context, SCHEMA.user[0])}, "the graph cannot run its schema"),
}


@pytest.mark.parametrize("name", MISFITS)
async def test_a_graph_that_does_not_fit_its_schema_is_refused(
    world: World, bundle: Bundle, scorer_settings: ScorerSettings, tmp_path: Path, name: str
) -> None:
    changes, told = MISFITS[name]
    generation_id = await world.publish(resealed(bundle, tmp_path / "misfit", **changes))
    with pytest.raises(BrokenBundle, match=told):
        await load_generation(generation_id, world.generations, world.store, scorer_settings)
