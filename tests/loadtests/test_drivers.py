"""Both drivers against a real scorer: the open loop's arithmetic and locust's users, each as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from contracts.errors import DeadlineExceeded
from contracts.request import ScoreRequest
from loadtests.open_loop import Outcomes, drive
from loadtests.shapes import IDS_VARIABLE, Traffic
from serving.app import RunningScorer
from serving.client import HttpClient
from tests.serving.conftest import WITH_CONTENT, World

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"item_ids": WITH_CONTENT}))
    return path


async def run(*command: str, environment: dict[str, str] | None = None) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), error.decode()


@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_open_loop_prints_one_json_line(running: RunningScorer, ids: Path, door: str) -> None:
    where = ("--grpc", running.grpc_target) if door == "grpc" else ("--url", running.http_url)
    code, out, error = await run(
        *("-m", "loadtests.open_loop", "--ids", str(ids), "--rate", "20", "--seconds", "1", *where)
    )
    assert code == 0, error
    (line,) = out.splitlines()
    document = json.loads(line)
    assert document["door"] == door
    assert (document["sent"], document["ok"], document["errors"]) == (20, 20, {})
    assert 0 < document["p50_ms"] <= document["p90_ms"] <= document["p99_ms"]


async def test_open_loop_says_what_is_wrong(tmp_path: Path) -> None:
    code, _, error = await run("-m", "loadtests.open_loop", "--ids", str(tmp_path / "absent"))
    assert code == 1
    assert "REPCENTER_LOAD_IDS" in error
    code, out, _ = await run("-m", "loadtests.open_loop", "--help")
    assert code == 0
    assert "--rate" in out


async def test_latency_counts_from_the_intended_start(running: RunningScorer, world: World) -> None:
    """While the store is paused for 300 ms no request answers, yet all of them leave and count the wait."""
    async with HttpClient(running.http_url) as client:
        await client.score(ScoreRequest(WITH_CONTENT))
        await world.redis.client_pause(300, all=True)
        outcomes = await drive(client, Traffic(WITH_CONTENT), rate=30, seconds=0.5, deadline_s=5)
    assert outcomes.errors.total() == 0
    assert len(outcomes.latencies_ms) == 15
    assert sum(latency > 100 for latency in outcomes.latencies_ms) >= 4


async def test_errors_are_counted_by_code(running: RunningScorer, world: World) -> None:
    async with HttpClient(running.http_url) as client:
        await client.score(ScoreRequest(WITH_CONTENT))
        await world.redis.client_pause(600, all=True)
        outcomes = await drive(client, Traffic(WITH_CONTENT), rate=10, seconds=0.3, deadline_s=0.05)
        await world.redis.client_unpause()
    assert dict(outcomes.errors) == {DeadlineExceeded.code: 3}
    assert outcomes.to_json(10, 0.3)["p50_ms"] is None


def test_percentiles() -> None:
    document = Outcomes([float(n) for n in range(101)], [0.5]).to_json(10, 10.1)
    assert (document["p50_ms"], document["p90_ms"], document["p99_ms"]) == (50.0, 90.0, 99.0)
    assert document["late_p99_ms"] == 0.5


async def test_locust_drives_both_doors(running: RunningScorer, ids: Path) -> None:
    code, out, error = await run(
        *("-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "-u", "4", "-r", "4", "-t", "3s"),
        *("--host", running.http_url, "--json", "--skip-log"),
        environment={IDS_VARIABLE: str(ids), "REPCENTER_LOAD_GRPC": running.grpc_target},
    )
    assert code == 0, error
    rows = {(row["method"], row["name"]): row for row in json.loads(out)}
    assert set(rows) == {("POST", "/v1/score"), ("gRPC", "/repcenter.v1.Scorer/Score")}
    for row in rows.values():
        assert row["num_requests"] > 5
        assert row["num_failures"] == 0
