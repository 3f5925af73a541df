"""A scorer that still serves a generation whose tables were collected: missing and flagged, never wrong."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.codec import ID_INT8
from contracts.manifest import IdTable
from contracts.request import Behaviour, ScoreRequest
from param_server.collection import collect
from param_server.id_rows import read_id_rows
from param_server.settings import GenerationSettings, StoreSettings
from serving.app import open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.ranker_bundle import make_ranker_bundle, recompute
from tests.serving.conftest import ID_DIM, SPACE, WITH_CONTENT, WITH_ID_ROW, World, until
from tests.serving.test_swaps import serves

AT_ONCE = GenerationSettings(collect_grace_s=0, collect_unpublished_s=0, collect_keep=0)
ASKED = ScoreRequest(WITH_CONTENT[:8], [Behaviour("item-20"), Behaviour("item-21")])
UNASKED = ScoreRequest(WITH_CONTENT[8:16], [Behaviour("item-22")])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_collected_generation_that_still_serves_finds_nothing(
    world: World,
    bundles: tuple[Bundle, Bundle],
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    cache_bytes: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The scorer refuses the next generation, so it lags behind its pointer while all of its own goes."""
    records, id_rows = await world.records(), await world.id_rows()
    expected = recompute(bundles[0], SPACE, ASKED, records, id_rows)
    other_space = replace(SPACE, encoder_digest="f" * 64)
    bundle = make_ranker_bundle(tmp_path / "other", other_space, WITH_ID_ROW, id_dim=ID_DIM)
    table = IdTable("rows-2", ID_INT8, ID_DIM, len(WITH_ID_ROW))
    await world.store.create_space(other_space)
    await world.store.load_id_rows(table, *read_id_rows(bundle.file("id_rows.parquet"), ID_INT8, ID_DIM))
    await world.store.seal_id_table(table)
    after = await world.publish(
        bundle, space=other_space, encoder_digest=other_space.encoder_digest, id_table=table
    )
    graph = tmp_path / "other" / "ranker.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    changed = scorer_settings.model_copy(update={"cache_bytes": cache_bytes})

    async def refused() -> bool:
        return f"generation {after} refused" in caplog.text

    async with (
        open_scorer(changed, settings) as running,
        HttpClient(running.http_url) as http,
        GrpcClient(running.grpc_target) as rpc,
    ):
        await until(running.readiness.is_ready)
        await http.score(ASKED)
        with caplog.at_level(logging.ERROR, logger="serving.live"):
            await world.generations.activate("default", after)
            await until(refused)
        report = await collect(world.redis, AT_ONCE, settle_s=0, lease_s=0.5)
        assert {part.kind for part in report.parts} == {"generation", "space", "id_table"}
        assert await serves(running, world.generation.id)
        for client in (http, rpc):
            answer = await client.score(UNASKED)
            assert answer.status_names() == ["missing"] * 8
            assert np.isnan(answer.scores).all()
            assert (answer.completeness.candidates_found, answer.completeness.behaviours_found) == (0, 0)
            seen = await client.score(ASKED)
            if seen.completeness.candidates_found:  # all rows are still in this process, and they are right
                assert cache_bytes
                np.testing.assert_allclose(seen.scores, expected, rtol=0, atol=1e-6)
            else:
                assert seen.status_names() == ["missing"] * 8
