"""Generations come and go under traffic; what must not serve is refused and the old one stays."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import weakref
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest

from contracts.bundle import Bundle, open_bundle, seal
from contracts.codec import ID_FP16, ID_INT8
from contracts.errors import (
    BrokenBundle,
    Conflict,
    NotFound,
    RepcenterError,
    SpaceMismatch,
    Unavailable,
    UnknownVersion,
)
from contracts.items import AttributeField
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import ranker_spec_from_json
from contracts.request import Behaviour, ScoreRequest
from contracts.space import Modality
from param_server import keys
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.loaded import check_spec, load_generation
from serving.settings import ScorerSettings
from tests.ranker_bundle import recompute
from tests.serving.conftest import SPACE, WITH_CONTENT, World, until

REQUEST = ScoreRequest(WITH_CONTENT[:12], [Behaviour("item-3"), Behaviour("item-4")])


async def test_swaps_under_traffic_fail_nothing_and_mix_nothing(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    records, id_rows = await world.records(), await world.id_rows()
    second = await world.publish(bundles[1])
    expected = {
        generation: recompute(bundle, SPACE, REQUEST, records, id_rows)
        for generation, bundle in ((world.generation.id, bundles[0]), (second, bundles[1]))
    }
    assert np.abs(expected[second] - expected[world.generation.id]).min() > 0.01
    answered: list[str] = []
    stop = asyncio.Event()

    async def ask(client: HttpClient | GrpcClient) -> None:
        while not stop.is_set():
            answer = await client.score(REQUEST)
            np.testing.assert_allclose(answer.scores, expected[answer.generation], rtol=0, atol=1e-6)
            answered.append(answer.generation)

    async with (
        HttpClient(running.http_url) as http,
        GrpcClient(running.grpc_target) as rpc,
        asyncio.TaskGroup() as users,
    ):
        for client in (http, http, rpc, rpc):
            users.create_task(ask(client))
        for target in (second, world.generation.id, second, world.generation.id):
            await world.generations.activate("default", target)
            await until(partial(_serves, running, target))
            await asyncio.sleep(0.05)
        stop.set()
    switches = sum(a != b for a, b in pairwise(answered))
    assert switches >= 4
    assert set(answered) == {world.generation.id, second}


async def test_an_old_generation_is_freed_after_its_last_request(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    pinned = running.live.pin("default")
    old = weakref.ref(pinned)
    second = await world.publish(bundles[1])
    await world.generations.activate("default", second)
    await until(lambda: _serves(running, second))
    gc.collect()
    assert old() is pinned  # a request holds it still
    del pinned
    gc.collect()
    assert old() is None


async def test_a_pinned_generation_is_served_or_refused(running: RunningScorer, world: World) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            answer = await client.score(REQUEST, generation=world.generation.id)
            assert answer.generation == world.generation.id
            with pytest.raises(Conflict, match=f"serves generation {world.generation.id}, not 'gother'"):
                await client.score(REQUEST, generation="gother")
    async with httpx.AsyncClient(base_url=running.http_url) as raw:
        assert (await raw.post("/v1/score", json={"candidates": [], "generation": "x"})).status_code == 409


async def test_a_generation_that_does_not_load_is_refused_and_the_old_one_serves(
    running: RunningScorer,
    world: World,
    bundles: tuple[Bundle, Bundle],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundles[1].path, broken)
    bad = await world.publish(open_bundle(str(broken)))
    graph = broken / "ranker.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with caplog.at_level(logging.ERROR, logger="serving.live"):
        await world.generations.activate("default", bad)
        await until(lambda: _logged(caplog, "does not match its sha256"))
    async with HttpClient(running.http_url) as client:
        assert (await client.score(REQUEST)).generation == world.generation.id
    assert await running.readiness.is_ready()  # the old one serves
    assert "repcenter_generation_refusals_total" in await _metrics(running)
    shutil.copy(bundles[1].path / "ranker.onnx", graph)  # the bundle was only late
    await until(lambda: _serves(running, bad))


async def test_scenes_share_what_they_serve_and_unknown_ones_are_refused(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    two = scorer_settings.model_copy(update={"scenes": ["default", "search"]})
    async with open_scorer(two, settings) as running:
        await until(lambda: _serves(running, world.generation.id))
        with pytest.raises(Unavailable, match="'search' has no loaded generation"):
            await running.scorer.score(ScoreRequest(["item-1"], scene="search"))
        assert not await running.readiness.is_ready()
        await world.generations.activate("search", world.generation.id)
        await until(running.readiness.is_ready)
        assert running.live.pin("search") is running.live.pin("default")
        with pytest.raises(NotFound, match="no scene 'other'"):
            await running.scorer.score(ScoreRequest(["item-1"], scene="other"))


async def test_an_unreadable_pointer_of_one_scene_leaves_the_others_alone(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, bundles: tuple[Bundle, Bundle]
) -> None:
    await world.redis.hset(keys.scenes().decode(), "broken", b'{"version": 99}')
    two = scorer_settings.model_copy(update={"scenes": ["broken", "default"]})
    async with open_scorer(two, settings) as running:
        await until(partial(_serves, running, world.generation.id))
        second = await world.publish(bundles[1])
        await world.generations.activate("default", second)
        await until(partial(_serves, running, second))
        assert not await running.readiness.is_ready()


async def test_generations_lists_what_is_published_and_served(
    running: RunningScorer, world: World, bundles: tuple[Bundle, Bundle]
) -> None:
    second = await world.publish(bundles[1], created_ms=1_800_000_000_000)
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        over_http, over_grpc = await http.generations(), await rpc.generations()
    assert over_http == over_grpc
    assert [(s.name, s.generation) for s in over_http.scenes] == [("default", world.generation.id)]
    assert [g.id for g in over_http.generations] == [second, world.generation.id]
    assert over_http.generations[0].ranker_digest == bundles[1].digest


async def test_an_unsealed_id_table_is_refused(
    world: World, bundles: tuple[Bundle, Bundle], scorer_settings: ScorerSettings
) -> None:
    """The same generation loads while its table is sealed, and not when the mark is gone."""
    loaded = await load_generation(world.generation.id, world.generations, world.store, scorer_settings)
    assert loaded.id == world.generation.id
    await world.redis.delete(keys.id_tables_sealed())
    with pytest.raises(Unavailable, match="'rows-1'"):
        await load_generation(world.generation.id, world.generations, world.store, scorer_settings)


async def test_a_generation_whose_space_has_no_table_is_refused(
    world: World, scorer_settings: ScorerSettings
) -> None:
    await world.redis.delete(keys.spaces())
    with pytest.raises(NotFound, match=SPACE.id):
        await load_generation(world.generation.id, world.generations, world.store, scorer_settings)


OTHER_SPACE = replace(SPACE, encoder_digest="f" * 64)
OTHER_FIELDS = replace(SPACE, attributes=(AttributeField("genre", "categorical", 1),))
MISFITS: dict[str, tuple[dict[str, object], type[RepcenterError], str]] = {
    "space": ({"space": OTHER_SPACE}, SpaceMismatch, OTHER_SPACE.id),
    "layout": (
        {"space": replace(SPACE, modalities=(Modality("text", 16),))},
        SpaceMismatch,
        "expected space",
    ),
    "rows": ({"id_table": IdTable("t", ID_INT8, 8, 3)}, Conflict, "'t' has 3 of 8"),
    "dim": ({"id_table": IdTable("t", ID_INT8, 4, 30)}, Conflict, "'t' has 30 of 4"),
    "codec": ({"id_table": IdTable("t", ID_FP16, 8, 30)}, UnknownVersion, "id_fp16"),
    "base": ({"id_table": IdTable("t", ID_INT8, 8, 30, "t0")}, Conflict, "'t' is over 't0'"),
}


@pytest.mark.parametrize("name", list(MISFITS))
def test_a_ranker_of_other_tables_is_refused(name: str, bundles: tuple[Bundle, Bundle]) -> None:
    changes, error, text = MISFITS[name]
    bundle = bundles[0]
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    table = IdTable("t", ID_INT8, 8, spec.id_row_count)
    generation = Generation(0, "e", "e" * 64, SPACE, str(bundle.path), bundle.digest, table)
    check_spec(spec, generation)  # this one fits
    with pytest.raises(error, match=text):
        check_spec(spec, replace(generation, **changes))  # type: ignore[arg-type]


def test_a_ranker_that_reads_other_attributes_is_refused(bundles: tuple[Bundle, Bundle]) -> None:
    spec = ranker_spec_from_json(dict(bundles[0].manifest.content))
    table = IdTable("t", ID_INT8, 8, spec.id_row_count)
    generation = Generation(0, "e", "e" * 64, SPACE, "r", "d", table)
    fewer = replace(spec, schema=replace(spec.schema, items=spec.schema.items[:1]))
    with pytest.raises(Conflict, match="reads attributes"):
        check_spec(fewer, generation)


async def test_a_golden_output_that_is_not_reproduced_is_refused(
    world: World, bundles: tuple[Bundle, Bundle], tmp_path: Path, scorer_settings: ScorerSettings
) -> None:
    """The graph of one ranker under the golden outputs of the other."""
    mixed = tmp_path / "mixed"
    shutil.copytree(bundles[0].path, mixed)
    (mixed / "manifest.json").unlink()
    shutil.copy(bundles[1].path / "ranker.onnx", mixed / "ranker.onnx")
    bundle = seal(mixed, "ranker", bundles[0].manifest.content)
    generation_id = await world.publish(bundle)
    with pytest.raises(BrokenBundle, match="differs from golden"):
        await load_generation(generation_id, world.generations, world.store, scorer_settings)


async def _serves(running: RunningScorer, generation_id: str) -> bool:
    serving = running.live.serving().get("default")
    return serving is not None and serving.loaded.id == generation_id


async def _logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def _metrics(running: RunningScorer) -> str:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        return (await http.get("/metrics")).text


async def test_a_scorer_is_not_ready_while_its_server_may_drop_rows(
    world: World, scorer_settings: ScorerSettings, settings: StoreSettings
) -> None:
    await world.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with open_scorer(scorer_settings, settings) as scorer:
            with pytest.raises(Unavailable):
                await scorer.readiness.check()

            async def refused() -> bool:
                try:
                    await scorer.readiness.check()
                except Unavailable as error:
                    return "run: CONFIG SET maxmemory-policy noeviction" in str(error)
                return False

            await until(refused)
            await world.redis.config_set("maxmemory-policy", "noeviction")
            await until(scorer.readiness.is_ready)
    finally:
        await world.redis.config_set("maxmemory-policy", "noeviction")
