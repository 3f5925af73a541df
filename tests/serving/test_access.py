"""A scorer as the servers' user of its role, tables and streams on two servers: what it needs, it may."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.errors import Unavailable
from contracts.events import Event
from contracts.request import Behaviour, ScoreRequest
from param_server.activation import check_generation
from param_server.activation_log import read_log
from param_server.behaviours import Behaviours
from param_server.connection import connect_one
from param_server.settings import GenerationSettings, StoreSettings
from serving.app import open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.access import guarded, url_of
from tests.serving.conftest import fill, until


async def test_a_scorer_scores_and_follows_as_its_own_user(
    bundles: tuple[Bundle, Bundle], scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    with guarded(tmp_path) as servers:
        async with connect_one(url_of(servers.tables, "admin"), StoreSettings()) as admin:
            world = await fill(admin, bundles[0])
            settings = servers.settings("scorer", tmp_path / "var")
            async with open_scorer(scorer_settings, settings) as running:
                await until(running.readiness.is_ready)
                request = ScoreRequest(["item-1", "cold-0", "unknown"], [Behaviour("item-3")])
                async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
                    scores = await http.score(request)
                    assert np.isfinite(scores.scores[:2]).all()
                    assert (await rpc.score(request)).generation == world.generation.id
                    now_ms = time.time_ns() // 1_000_000
                    async with connect_one(url_of(servers.tables, "encoder"), StoreSettings()) as encoder:
                        await Behaviours(encoder).append([Event("u", "item-3", now_ms - 60_000)])
                    stored = await http.score(ScoreRequest(["item-1"], [], user_id="u"))
                    assert stored.completeness.behaviours_found == 1

                    second = await world.publish(bundles[1])
                    await world.generations.activate("default", second)

                    async def swapped() -> bool:
                        return (await http.score(request)).generation == second

                    await until(swapped)
                    await world.generations.roll_back("default")
                    checked = await check_generation(admin, "default", second, GenerationSettings())
                    assert checked.generation.id == second
                    assert len(await read_log(admin, "default")) == 3


async def test_a_scorer_whose_user_is_switched_off_says_so_and_comes_back(
    bundles: tuple[Bundle, Bundle], scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    with guarded(tmp_path) as servers:
        async with connect_one(servers.tables.url, StoreSettings()) as default:
            assert await default.ping()
        async with connect_one(url_of(servers.tables, "admin"), StoreSettings()) as admin:
            await fill(admin, bundles[0])
        wrong = servers.settings("scorer", tmp_path / "var").model_copy(
            update={"redis_url": servers.tables.url.replace("unix://", "unix://repcenter-scorer:nope@")}
        )
        async with open_scorer(scorer_settings, wrong) as running:
            with pytest.raises(Unavailable) as refused:
                await running.live.refresh()
            assert "nope" not in str(refused.value)
            assert not await running.readiness.is_ready()
