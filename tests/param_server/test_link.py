"""Deadlines, retries, the breaker and the pool, against real servers and a real network between."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.codec import Rows
from contracts.errors import DeadlineExceeded, Unavailable
from param_server.breaker import State
from param_server.connection import connect_one, redis_errors
from param_server.embedded import EmbeddedServer
from param_server.link import link_of
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.param_server.samples import make_records, make_space, make_window
from tests.tcp_proxy import TcpProxy, tcp_proxy

SPACE = make_space()
IDS = [f"item {n}" for n in range(300)]
RECORDS = make_records(SPACE, list(range(1, 301)))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer.start(tmp_path / "own") as server:
        yield server


@pytest_asyncio.fixture
async def proxy(own: EmbeddedServer) -> AsyncIterator[TcpProxy]:
    """Before a server that holds IDS."""
    async with connect_one(own.url, StoreSettings()) as redis:
        await fill(redis)
    async with tcp_proxy(own.url) as between:
        yield between


async def fill(redis: Redis) -> None:
    store = Store(redis)
    await store.create_space(SPACE)
    assert (await store.commit_window(make_window(SPACE, IDS, list(range(1, 301))))).all()


def state(redis: Redis) -> State:
    return link_of(redis).state


async def rows(redis: Redis, ids: list[str]) -> Rows:
    got = await Store(redis).fetch(SPACE, None, ids)
    assert got.found.all()
    return got.records


async def within(redis: Redis, seconds: float, ids: list[str] | None = None) -> Rows:
    async with redis_errors("score"), asyncio.timeout(seconds):
        return await rows(redis, ids or IDS[:5])
    raise AssertionError  # a type checker's: the block may swallow


async def test_a_paused_server_costs_its_callers_their_deadline_until_the_breaker_opens(
    own: EmbeddedServer,
) -> None:
    settings = StoreSettings(socket_timeout_s=30, breaker_failures=4, breaker_open_s=0.3)
    async with connect_one(own.url, settings) as redis:
        await fill(redis)
        link = link_of(redis)
        os.kill(own.pid, signal.SIGSTOP)
        try:
            waited = 0
            while state(redis) == "closed":
                began = time.monotonic()
                with pytest.raises(DeadlineExceeded):
                    await within(redis, 0.06)
                assert time.monotonic() - began < 20  # not the socket's 30 s
                waited += 1
            assert waited >= 4
            connections = len(redis.connection_pool._available_connections)
            for _ in range(100):
                with pytest.raises(Unavailable, match=r"breaker open for another \d\.\d s"):
                    await rows(redis, IDS[:5])
            assert len(redis.connection_pool._available_connections) == connections
            assert link.opened == 1
            while link.opened == 1:  # until its time is over and a call tries, which fails too
                with pytest.raises((DeadlineExceeded, Unavailable)):
                    await within(redis, 0.15)
                await asyncio.sleep(0.01)
            assert state(redis) == "open"
        finally:
            os.kill(own.pid, signal.SIGCONT)
        assert (await patiently(redis) == RECORDS[:5]).all()
        assert state(redis) == "closed"


async def patiently(redis: Redis, ids: list[str] | None = None) -> Rows:
    """Until it works: nothing but time may be needed."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return await rows(redis, ids or IDS[:5])
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_what_the_breaker_refuses_never_reaches_the_server(proxy: TcpProxy) -> None:
    settings = StoreSettings(breaker_failures=3, breaker_open_s=60, redis_retries=0)
    async with connect_one(proxy.url, settings) as redis:
        await rows(redis, IDS[:5])
        proxy.cut_after = 0
        for _ in range(3):
            with pytest.raises(Unavailable):
                await rows(redis, IDS[:5])
        proxy.cut_after = None
        accepted = proxy.accepted
        for _ in range(20):
            with pytest.raises(Unavailable, match=r"breaker open for another [4-7]\d\.\d s"):
                await rows(redis, IDS[:5])
        assert proxy.accepted == accepted


async def test_a_server_that_was_killed_is_found_again(tmp_path: Path) -> None:
    server = EmbeddedServer.start(tmp_path)
    async with connect_one(server.url, StoreSettings(breaker_failures=3, breaker_open_s=0.05)) as redis:
        await fill(redis)
        await asyncio.gather(*(rows(redis, IDS[:5]) for _ in range(20)))  # many connections
        server.kill()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await rows(redis, IDS[:5])
        assert state(redis) == "open"
        with EmbeddedServer.start(tmp_path):
            assert (await patiently(redis) == RECORDS[:5]).all()
            assert state(redis) == "closed"


async def test_a_restart_between_two_calls_is_not_seen(tmp_path: Path) -> None:
    server = EmbeddedServer.start(tmp_path)
    async with connect_one(server.url, StoreSettings()) as redis:
        await fill(redis)
        server.stop()
        with EmbeddedServer.start(tmp_path):
            assert (await rows(redis, IDS[:5]) == RECORDS[:5]).all()


@pytest.mark.parametrize("ending", ["close", "half-close"])
async def test_a_reply_that_is_cut_off_never_gives_wrong_rows(proxy: TcpProxy, ending: str) -> None:
    proxy.ending = ending  # type: ignore[assignment]
    settings = StoreSettings(redis_retries=0, breaker_failures=1_000, breaker_share=1.0)
    async with connect_one(proxy.url, settings) as redis:
        for cut in (1, 4, 5, 6, 100, 420, 5_000, 16_499):
            await rows(redis, IDS[:1])  # a connection is there
            proxy.cut_after = cut
            accepted = proxy.accepted
            with pytest.raises(Unavailable):
                await rows(redis, IDS)
            proxy.cut_after = None
            assert (await rows(redis, IDS[100:]) == RECORDS[100:]).all()
            assert proxy.accepted == accepted + 1  # what was cut off is thrown away


async def test_a_reply_that_stops_is_given_up_and_its_rest_is_never_read(proxy: TcpProxy) -> None:
    proxy.ending = "hang"
    async with connect_one(proxy.url, StoreSettings(socket_timeout_s=0.2)) as redis:
        await rows(redis, IDS[:1])
        proxy.cut_after = 5_000
        with pytest.raises(Unavailable, match="no reply from Redis in time"):
            await rows(redis, IDS)
        proxy.cut_after = None
        assert (await rows(redis, IDS[7:9]) == RECORDS[7:9]).all()


async def test_late_replies_are_not_taken_for_those_to_later_questions(proxy: TcpProxy) -> None:
    async with connect_one(proxy.url, StoreSettings()) as redis:
        await rows(redis, IDS[:1])
        proxy.delay_s = 0.2
        for n in range(3):
            with pytest.raises(DeadlineExceeded):
                await within(redis, 0.05, IDS[n : n + 1])
        proxy.delay_s = 0.0
        for n in range(3, 6):
            assert (await patiently(redis, IDS[n : n + 1]) == RECORDS[n : n + 1]).all()


async def test_a_lost_connection_is_tried_again_and_counted(proxy: TcpProxy) -> None:
    async with connect_one(proxy.url, StoreSettings()) as redis:
        await rows(redis, IDS[:1])
        proxy.delay_s, asked = 60, proxy.asked
        call = asyncio.create_task(rows(redis, IDS[:5]))
        while proxy.asked == asked:
            await asyncio.sleep(0)
        proxy.drop()
        proxy.delay_s = 0.0
        assert (await call == RECORDS[:5]).all()
        assert link_of(redis).counts.retries == 1
        assert state(redis) == "closed"


async def test_retries_have_a_budget(proxy: TcpProxy) -> None:
    settings = StoreSettings(redis_retries=1, redis_retry_share=0.0, breaker_failures=1_000)
    async with connect_one(proxy.url, settings.model_copy(update={"breaker_share": 1.0})) as redis:
        proxy.cut_after = 0
        for _ in range(30):
            with pytest.raises(Unavailable):
                await rows(redis, IDS[:5])
            if state(redis) == "open":
                break
        counts = link_of(redis).counts
        assert counts.retries <= 10  # what was saved up, not one per call
        assert counts.retries_refused > 0
        assert proxy.accepted <= 10 + 30


async def test_reconnects_and_pauses_are_within_the_deadline(proxy: TcpProxy) -> None:
    async with connect_one(proxy.url, StoreSettings(socket_timeout_s=30, redis_retries=5)) as redis:
        await rows(redis, IDS[:1])
        proxy.silent = True
        proxy.drop()
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await within(redis, 0.2)
        assert time.monotonic() - began < 20  # not the socket's 30 s


async def test_a_full_pool_is_said_and_waited_for_no_longer_than_the_deadline(proxy: TcpProxy) -> None:
    settings = StoreSettings(socket_timeout_s=30, max_connections=2, pool_wait_s=0.1)
    async with connect_one(proxy.url, settings) as redis, asyncio.TaskGroup() as group:
        await asyncio.gather(*(rows(redis, IDS[:1]) for _ in range(2)))
        proxy.silent = True
        stuck = [group.create_task(within(redis, 25)) for _ in range(2)]
        while redis.connection_pool.can_get_connection():
            await asyncio.sleep(0)
        words = r"all 2 connections to redis://127.* are busy, none became free in 0.1 s \(REPCENTER_MAX_CONN"
        with pytest.raises(Unavailable, match=words):
            await rows(redis, IDS[:1])
        with pytest.raises(DeadlineExceeded):
            await within(redis, 0.01)
        counts = link_of(redis).counts
        assert (counts.waits, counts.pool_busy) == (2, 1)
        assert counts.wait_s >= 0.1
        assert state(redis) == "closed"  # our own limit says nothing about the server
        for task in stuck:
            task.cancel()
        proxy.silent = False
        assert (await rows(redis, IDS[:1]) == RECORDS[:1]).all()
    assert proxy.accepted <= 4


async def test_many_callers_share_few_connections(proxy: TcpProxy) -> None:
    async with connect_one(proxy.url, StoreSettings(max_connections=3)) as redis:
        got = await asyncio.gather(*(rows(redis, IDS[n : n + 2]) for n in range(200)))
        assert all((found == RECORDS[n : n + 2]).all() for n, found in enumerate(got))
        assert proxy.accepted <= 3
        assert link_of(redis).counts.waits > 0


async def test_a_refusal_of_the_server_is_an_answer(own: EmbeddedServer) -> None:
    async with connect_one(own.url, StoreSettings(breaker_failures=1)) as redis:
        for _ in range(3):
            with pytest.raises(Unavailable, match="unknown command"):
                async with redis_errors("ask"):
                    await redis.execute_command("NO-SUCH-COMMAND")  # type: ignore[no-untyped-call]
        assert state(redis) == "closed"
