"""The scorer as a process of its own: it drains on SIGTERM, and it needs no torch."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from contracts.errors import InvalidInput, RepcenterError
from contracts.request import Behaviour, ScoreRequest
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.serving.conftest import WITH_CONTENT, World, until

ROOT = Path(__file__).parents[2]
REQUEST = ScoreRequest(WITH_CONTENT[:20], [Behaviour("item-3")])
_MAIN = """
from param_server.settings import StoreSettings
from serving.app import run_scorer
from serving.settings import ScorerSettings
run_scorer(ScorerSettings(), StoreSettings())
"""
_BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "bitsandbytes", "training", "realtime_infer"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import serving.app, serving.client, loadtests.open_loop
assert "torch" not in sys.modules
print("imported")
"""


def test_serving_imports_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("imported\n", 0), done.stderr


async def test_sigterm_drains_without_a_lost_request(
    world: World, server: EmbeddedServer, tmp_path: Path
) -> None:
    """Requests run all the time; readiness falls at once, every accepted request is answered, exit 0."""
    environment = {
        **os.environ,
        "REPCENTER_REDIS_URL": server.url,
        "REPCENTER_VAR_DIR": str(tmp_path),
        "REPCENTER_HTTP_PORT": "0",
        "REPCENTER_GRPC_PORT": "0",
        "REPCENTER_WORKERS": "1",
        "REPCENTER_DRAIN_S": "0.8",
        "PYTHONWARNINGS": "error",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _MAIN),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        http_url, grpc_target = await _doors(process)
        outcomes: Counter[str] = Counter()
        stopped = asyncio.Event()

        async def ask(client: HttpClient | GrpcClient) -> None:
            while not stopped.is_set():
                try:
                    await client.score(REQUEST)
                    outcomes["ok"] += 1
                except RepcenterError as error:
                    outcomes[type(error).__name__] += 1
                    return

        async with (
            HttpClient(http_url) as http,
            GrpcClient(grpc_target) as rpc,
            httpx.AsyncClient(base_url=http_url) as raw,
            asyncio.TaskGroup() as users,
        ):
            for client in (http, rpc):
                users.create_task(ask(client))
            assert (await raw.get("/health/ready")).status_code == 200
            process.send_signal(signal.SIGTERM)
            terminated = time.perf_counter()
            statuses = set()
            while time.perf_counter() - terminated < 0.5:
                statuses.add((await raw.get("/health/ready")).status_code)
                await asyncio.sleep(0.05)
            assert 503 in statuses
            assert set(outcomes) == {"ok"}  # draining still answers
            during = outcomes["ok"]
            stopped.set()
        assert during > 0
        stdout, stderr = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, stderr.decode()
        assert stdout.decode().endswith("stopped\n")
        assert set(outcomes) == {"ok"}
        assert "Traceback" not in stderr.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_closing_finishes_what_is_in_flight(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    async with AsyncExitStack() as stack:
        async with open_scorer(scorer_settings, settings) as running:
            await until(running.readiness.is_ready)
            http = await stack.enter_async_context(HttpClient(running.http_url))
            rpc = await stack.enter_async_context(GrpcClient(running.grpc_target))
            clients: list[HttpClient | GrpcClient] = [http, rpc]
            for client in clients:
                await client.score(ScoreRequest([]))
            await world.redis.client_pause(300, all=True)
            asked = [asyncio.create_task(client.score(REQUEST)) for client in clients]
            async with asyncio.timeout(5):
                while running.scorer.admission.in_flight < 2 * 21:
                    await asyncio.sleep(0.005)
        for answer in await asyncio.gather(*asked):
            assert answer.status_names() == ["ok"] * 20


async def test_a_taken_port_is_named(
    running: RunningScorer, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    for field, port in (
        ("http_port", int(running.http_url.rsplit(":", 1)[1])),
        ("grpc_port", int(running.grpc_target.rsplit(":", 1)[1])),
    ):
        with pytest.raises(InvalidInput, match=field):
            async with open_scorer(scorer_settings.model_copy(update={field: port}), settings):
                pass


async def _doors(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """The addresses in the line that the process prints when it is ready."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while line := (await process.stdout.readline()).decode():
            if line.startswith("ready "):
                _, http, rpc = line.split()
                return http.removeprefix("http="), rpc.removeprefix("grpc=")
    assert process.stderr is not None
    pytest.fail((await process.stderr.read()).decode())
