"""The tables' server is killed, stopped or slow while users ask: every outcome is counted and allowed by the
policy, no score is wrong, none hangs, and all is well again by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.errors import DeadlineExceeded, RepcenterError, Unavailable
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import Scores
from param_server.connection import connect_one
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.faults.faulty_server import FaultyServer
from tests.serving.conftest import COLD, WITH_CONTENT, fill, until
from tests.tcp_proxy import tcp_proxy

HOT = ScoreRequest([*WITH_CONTENT[:10], COLD[0]], [Behaviour(WITH_CONTENT[11])])
FEW = 20  # of each outcome that a test waits for


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


class Users:
    """They ask until told to stop. counts: of fresh, stale, refused, late, and of what must never be."""

    def __init__(self, expected: Scores) -> None:
        self.counts: Counter[str] = Counter()
        self._expected = expected.scores
        self._stop = asyncio.Event()

    async def ask(self, client: HttpClient | GrpcClient) -> None:
        while not self._stop.is_set():
            self.counts[await self._one(client)] += 1
            await asyncio.sleep(0.005)

    async def _one(self, client: HttpClient | GrpcClient) -> str:
        try:
            answer = await client.score(HOT, deadline_s=1.0)
        except Unavailable:
            return "refused"
        except DeadlineExceeded as error:
            return "hung" if "no answer in time" in str(error) else "late"
        except RepcenterError as error:
            return type(error).__name__
        if not np.array_equal(answer.scores, self._expected):
            return "wrong"
        return "stale" if answer.completeness.stale else "fresh"

    async def see(self, *outcomes: str) -> None:
        """Wait until FEW more requests had one of these outcomes."""
        before = sum(self.counts[outcome] for outcome in outcomes)

        async def seen() -> bool:
            return sum(self.counts[outcome] for outcome in outcomes) >= before + FEW

        await until(seen, 30)

    def stop(self) -> None:
        self._stop.set()


async def hurt(
    server: FaultyServer,
    url: str,
    bundle: Bundle,
    scorer_settings: ScorerSettings,
    policy: str,
    begin: Callable[[], Awaitable[None]],
    end: Callable[[], Awaitable[None]],
) -> Counter[str]:
    """Users over HTTP and gRPC before, during and after; ready again at the end."""
    settings = StoreSettings(redis_url=url, socket_timeout_s=0.5, var_dir=server.socket.parent / "var")
    redis = connect_one(server.url, settings)
    await fill(redis, bundle)
    await redis.aclose()
    changed = {"cache_bound_s": 0.6, "cache_stale": policy, "cache_patience_ms": 100.0}
    async with (
        open_scorer(scorer_settings.model_copy(update=changed), settings) as running,
        HttpClient(running.http_url) as http,
        GrpcClient(running.grpc_target) as rpc,
    ):
        await until(running.readiness.is_ready)
        users = Users(await http.score(HOT))
        async with asyncio.TaskGroup() as group:
            for client in (http, rpc):
                group.create_task(users.ask(client))
            await users.see("fresh")
            await begin()
            await users.see(*(("stale",) if policy == "flagged" else ("refused", "late")))
            await end()
            await until(running.readiness.is_ready, 30)
            await users.see("fresh")
            users.stop()
        return users.counts


ALLOWED = {"refuse": {"fresh", "refused", "late"}, "flagged": {"fresh", "stale"}}
faults = pytest.mark.faults


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        ("refuse", "kill"),
        ("flagged", "pause"),
        pytest.param("refuse", "pause", marks=faults),
        pytest.param("flagged", "kill", marks=faults),
    ],
)
async def test_a_server_that_is_gone(
    server: FaultyServer,
    bundles: tuple[Bundle, Bundle],
    scorer_settings: ScorerSettings,
    policy: str,
    how: str,
) -> None:
    async def begin() -> None:
        server.kill() if how == "kill" else server.pause()

    async def end() -> None:
        server.start() if how == "kill" else server.resume()

    counts = await hurt(server, server.url, bundles[0], scorer_settings, policy, begin, end)
    print(f"{policy}, {how}: {dict(counts)}")
    assert set(counts) <= ALLOWED[policy]


async def test_a_server_that_is_slow(
    server: FaultyServer, bundles: tuple[Bundle, Bundle], scorer_settings: ScorerSettings
) -> None:
    """Replies come, each later than the patience and the bound."""
    async with tcp_proxy(server.url) as proxy:

        async def begin() -> None:
            proxy.delay_s = 0.4

        async def end() -> None:
            proxy.delay_s = 0.0

        counts = await hurt(server, proxy.url, bundles[0], scorer_settings, "flagged", begin, end)
    print(f"flagged, slow: {dict(counts)}")
    assert set(counts) <= ALLOWED["flagged"]
