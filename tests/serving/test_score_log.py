"""The score log of a running scorer: what it holds, what it leaves out, what a broken disk does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry

from contracts.request import Behaviour, ScoreRequest
from param_server.score_files import ScoreFiles
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.client import GrpcClient, HttpClient
from serving.score_log import ScoreLog
from serving.scored import Scored
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD, HISTORY, HOSTILE, WITH_CONTENT, World, until


def rows(root: Path) -> list[dict[str, Any]]:
    files = ScoreFiles(str(root))
    return [row for table in files.read(files.names()) for row in table.to_pylist()]


async def test_every_answer_is_logged_as_it_was_given(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    logged = scorer_settings.model_copy(update={"score_log": str(tmp_path)})
    candidates = [*HOSTILE, COLD[0], "never-seen", "item-3", "item-3"]
    behaviours = [Behaviour(WITH_CONTENT[n % 40], n) for n in range(HISTORY + 4)]
    request = ScoreRequest(
        candidates, behaviours, user_id="u \0 {1}", user={"age": 3.5}, context={"tags": ["a", "b"]},
        timestamp_ms=99, query={"text": [1.0] * 16},
    )  # fmt: skip
    async with open_scorer(logged, settings) as running:
        await until(running.readiness.is_ready)
        async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
            answers = [await http.score(request), await rpc.score(request)]
            await http.score(ScoreRequest([]))  # nothing was shown
            await http.score(ScoreRequest(["item-1"], request_id="mine"))
    found = {row["request_id"]: row for row in rows(tmp_path)}
    assert set(found) == {answers[0].request_id, answers[1].request_id, "mine"}
    records = await world.records()
    dtype = world.generation.space.dtype
    for answer in answers:
        row = found[answer.request_id]
        assert row["candidates"] == candidates
        assert row["sequences"] == [
            int(np.frombuffer(records[c], dtype)[0]["sequence"]) if c in records else 0 for c in candidates
        ]
        assert row["behaviours"] == [b.item_id for b in behaviours[-HISTORY:]]
        assert row["behaviour_sequences"] == [
            int(np.frombuffer(records[b.item_id], dtype)[0]["sequence"]) for b in behaviours[-HISTORY:]
        ]
        assert row["statuses"] == answer.statuses.tolist()
        np.testing.assert_array_equal(np.array(row["scores"], np.float32), answer.scores)
        assert (row["scene"], row["generation"], row["timestamp_ms"]) == ("default", answer.generation, 99)
        assert (row["user_id"], json.loads(row["user"])) == ("u \0 {1}", {"age": 3.5})
        assert json.loads(row["context"]) == {"tags": ["a", "b"]}
        assert json.loads(row["query"]) == {"text": [1.0] * 16}
    assert found["mine"]["user_id"] is None
    assert found["mine"]["timestamp_ms"] > 1_600_000_000_000


async def scored(world: World, settings: StoreSettings, scorer_settings: ScorerSettings) -> Scored:
    """One answered request, as observers are told of it."""
    told: list[Scored] = []
    async with open_scorer(scorer_settings, settings) as running:
        await until(running.readiness.is_ready)
        running.scorer._observers = [told.append]
        await running.scorer.score(ScoreRequest(WITH_CONTENT, request_id="one"))
    return told[0]


async def test_a_share_is_chosen_by_id(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    names = [f"request {n}" for n in range(2_000)]
    taken = []
    for share in (0.0, 0.1, 0.1, 1.0):
        log = ScoreLog(ScoreFiles(str(tmp_path)), ScorerSettings(score_log_share=share), CollectorRegistry())
        taken.append([name for name in names if log.takes(name)])
        log.close()
    assert (len(taken[0]), len(taken[3])) == (0, 2_000)
    assert taken[1] == taken[2]
    assert 150 < len(taken[1]) < 250


async def test_a_disk_that_fails_costs_no_request_and_loses_what_is_beyond_the_bound(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    one = await scored(world, settings, scorer_settings)
    root = tmp_path / "log"
    root.write_text("a file is in the way")
    registry = CollectorRegistry()
    log = ScoreLog(
        ScoreFiles(str(root)), ScorerSettings(score_log_rows=10_000, score_log_roll_s=0.01), registry
    )
    fits = 10_000 // len(WITH_CONTENT)

    def count(outcome: str) -> float | None:
        return registry.get_sample_value("repcenter_score_log_requests_total", {"outcome": outcome})

    async def failed() -> bool:
        return (registry.get_sample_value("repcenter_score_log_errors_total") or 0) > 0

    for _ in range(fits + 30):
        log.observe(one)
    assert count("dropped") == 30
    await until(failed)
    root.unlink()

    async def written() -> bool:
        return count("written") == fits

    await until(written)
    log.observe(one)
    await asyncio.to_thread(log.close)
    assert (count("written"), count("lost")) == (fits + 1, 0)
    assert len(rows(root)) == fits + 1


async def test_what_cannot_be_written_at_the_end_is_counted(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    one = await scored(world, settings, scorer_settings)
    (tmp_path / "log").write_text("a file is in the way")
    registry = CollectorRegistry()
    log = ScoreLog(ScoreFiles(str(tmp_path / "log")), ScorerSettings(), registry)
    log.observe(one)
    await asyncio.to_thread(log.close)
    assert registry.get_sample_value("repcenter_score_log_requests_total", {"outcome": "lost"}) == 1


def test_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    files = ScoreFiles(str(tmp_path))
    files.write("d/scores-1.parquet", pa.table({"request_id": ["a"]}))
    with pytest.raises(Exception, match="version None is unknown"):
        rows(tmp_path)
