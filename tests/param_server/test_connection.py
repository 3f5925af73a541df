from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.errors import DeadlineExceeded, InvalidInput, Unavailable
from contracts.manifest import IdTable
from param_server.connection import (
    answers,
    connect_one,
    redacted,
    redis_errors,
)
from param_server.embedded import EmbeddedServer
from param_server.server_checks import check_durable, check_layout, check_policy
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.param_server.samples import make_records, make_space, make_window


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer.start(tmp_path / "own") as server:
        yield server


async def run_the_fix(redis: Redis, message: str) -> None:
    """Run the command that an error tells the operator to run."""
    command = re.search(r"run: (.*)$", message)
    assert command is not None
    await redis.execute_command(*command[1].split())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_policy_that_would_evict_is_refused_with_its_fix(own: EmbeddedServer, policy: str) -> None:
    async with connect_one(own.url, StoreSettings()) as redis:
        await check_policy(redis)
        await redis.config_set("maxmemory-policy", policy)
        with pytest.raises(Unavailable, match=policy) as refused:
            await check_policy(redis)
        await run_the_fix(redis, str(refused.value))
        await check_policy(redis)
        await redis.config_set("maxmemory-policy", "volatile-lru")
        await check_policy(redis)


async def test_a_server_that_would_not_pack_rows_is_refused_with_its_fix(own: EmbeddedServer) -> None:
    async with connect_one(own.url, StoreSettings()) as redis:
        await check_layout(redis, 8_192)
        await redis.config_set("hash-max-listpack-value", 64)
        await redis.config_set("hash-max-listpack-entries", 16)
        with pytest.raises(Unavailable, match="value is 64, rows need 408: ") as refused:
            await check_layout(redis, 408)
        await run_the_fix(redis, str(refused.value))
        await check_layout(redis, 408)
        with pytest.raises(Unavailable, match="value is 8192, rows need 9000: ") as refused:
            await check_layout(redis, 9_000)
        await run_the_fix(redis, str(refused.value))
        await check_layout(redis, 9_000)
        await redis.config_set("hash-max-listpack-value", 255)
        with pytest.raises(Unavailable, match="value is 255, rows need 256: "):  # ids are in the block too
            await Store(redis).create_space(make_space(dim=2))
        with pytest.raises(Unavailable, match="run: CONFIG SET hash-max-listpack-value"):
            await Store(redis).seal_id_table(IdTable("t", ID_INT8, 16, 0))


async def test_a_server_that_hides_its_layout_is_logged(
    own: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect_one(own.url, StoreSettings()) as redis:
        await redis.execute_command(  # type: ignore[no-untyped-call]
            *("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-config")
        )
        async with connect_one(
            own.url.replace("unix://", "unix://reader:secret@"), StoreSettings()
        ) as reader:
            await check_layout(reader, 408)
    assert "hash-max-listpack-value is at least 408" in caplog.text
    assert "hash-max-listpack-entries is at least 48" in caplog.text


async def test_durability_is_told_or_refused_with_its_fix(own: EmbeddedServer) -> None:
    async with connect_one(own.url, StoreSettings()) as redis:
        assert await check_durable(redis) == "always"
        await redis.config_set("appendfsync", "everysec")
        assert await check_durable(redis) == "waitaof"
        await redis.config_set("appendfsync", "no")
        with pytest.raises(Unavailable, match="appendfsync is no") as refused:
            await check_durable(redis)
        await run_the_fix(redis, str(refused.value))
        assert await check_durable(redis) == "always"
        await redis.config_set("appendonly", "no")
        with pytest.raises(Unavailable, match="appendonly is no") as refused:
            await check_durable(redis)
        await run_the_fix(redis, str(refused.value))
        assert await check_durable(redis) == "always"


async def test_a_server_without_waitaof_must_fsync_always(tmp_path: Path) -> None:
    with EmbeddedServer.start(tmp_path, extra_args=("--rename-command", "WAITAOF", "")) as old:
        async with connect_one(old.url, StoreSettings()) as redis:
            assert await check_durable(redis) == "always"
            await redis.config_set("appendfsync", "everysec")
            with pytest.raises(Unavailable, match="run: CONFIG SET appendfsync always"):
                await check_durable(redis)


async def test_a_server_that_hides_its_settings_is_refused(own: EmbeddedServer) -> None:
    async with connect_one(own.url, StoreSettings()) as redis:
        await redis.execute_command(  # type: ignore[no-untyped-call]
            *("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-config")
        )
        url = own.url.replace("unix://", "unix://reader:secret@")
        async with connect_one(url, StoreSettings()) as reader:
            with pytest.raises(Unavailable, match=r"ACL SETUSER <user> \+config\|get") as refused:
                await check_durable(reader)
            assert "secret" not in str(refused.value)
            await check_policy(reader)


async def test_no_message_carries_the_password(own: EmbeddedServer) -> None:
    async with connect_one(own.url, StoreSettings()) as redis:
        await redis.config_set("requirepass", "right-password")
    socket = own.url.removeprefix("unix://")
    for url in (f"unix://someone:hunter2@{socket}", "redis://someone:hunter2@127.0.0.1:1/0"):
        async with connect_one(url, StoreSettings()) as redis:
            with pytest.raises(Unavailable) as refused:
                await Store(redis).spaces()
            error: BaseException | None = refused.value
            while error is not None:
                assert "hunter2" not in str(error)
                error = error.__cause__ or error.__context__
            assert "hunter2" not in repr(redis)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://u:hunter2@host",
        "host:6379",
        "redis://u:hunter2@host:port",
        "redis://u:hunter2@host/x?db=y",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="redis_url") as refused:
        connect_one(url, StoreSettings())
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_shown_url_has_neither_user_nor_query() -> None:
    assert redacted("redis://me:pw@host:6379/2?password=pw") == "redis://host:6379/2"
    assert redacted("unix://me:pw@/run/valkey.sock?password=pw") == "unix:///run/valkey.sock"


async def test_a_server_that_is_gone_is_unavailable_and_found_again(tmp_path: Path) -> None:
    server = EmbeddedServer.start(tmp_path)
    space = make_space()
    async with connect_one(server.url, StoreSettings()) as redis:
        store = Store(redis)
        await store.create_space(space)
        await store.commit_window(make_window(space, ["a"], [1]))
        server.kill()
        for call in (
            lambda: store.fetch(space, None, ["a"]),
            lambda: store.sequences(space, ["a"]),
            lambda: store.commit_window(make_window(space, ["a"], [2])),
            lambda: store.count(space),
            lambda: store.space(space.id),
        ):
            with pytest.raises(Unavailable, match=space.id):
                await call()
        with EmbeddedServer.start(tmp_path):
            assert (await store.fetch(space, None, ["a"])).found.all()
            assert (await store.commit_window(make_window(space, ["a"], [2]))).all()


async def test_a_server_that_hangs_is_unavailable_within_the_timeout(own: EmbeddedServer) -> None:
    space = make_space()
    async with connect_one(own.url, StoreSettings(socket_timeout_s=0.2)) as redis:
        store = Store(redis)
        await store.create_space(space)
        await store.commit_window(make_window(space, ["a", "b"], [1, 2]))
        os.kill(own.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            with pytest.raises(Unavailable, match="no reply from Redis in time"):
                await store.fetch(space, None, ["a"])
            assert time.monotonic() - start < 1.5
            with pytest.raises(DeadlineExceeded, match="read rows"):
                async with redis_errors("read rows"), asyncio.timeout(0.05):
                    await store.fetch(space, None, ["a"])
        finally:
            os.kill(own.pid, signal.SIGCONT)
        got = await store.fetch(space, None, ["b"])  # and never the late reply to an earlier question
        assert got.records[0] == make_records(space, [1, 2])[1]


async def test_connections_are_bounded_and_callers_wait_their_turn(own: EmbeddedServer) -> None:
    space = make_space()
    async with connect_one(own.url, StoreSettings(max_connections=3)) as redis:
        store = Store(redis)
        await store.create_space(space)
        await asyncio.gather(*(store.fetch(space, None, ["a"]) for _ in range(200)))
        assert (await redis.info("clients"))["connected_clients"] <= 3


def test_settings_come_from_the_environment_and_explain_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPCENTER_REDIS_URL", "redis://me:hunter2@host")
    monkeypatch.setenv("REPCENTER_MAX_CONNECTIONS", "5")
    settings = StoreSettings()
    assert (settings.redis_url, settings.max_connections) == ("redis://me:hunter2@host", 5)
    assert "hunter2" not in repr(settings)
    assert all(field.description for field in StoreSettings.model_fields.values())


async def test_answers_says_whether_a_server_is_there(
    server: EmbeddedServer, settings: StoreSettings
) -> None:
    assert await answers(server.url, settings)
    assert not await answers("unix:///nowhere/valkey.sock", settings)


async def test_a_cancellation_that_redis_py_swallows_is_raised_again() -> None:
    async def swallow() -> str:
        async with redis_errors("test"):
            # as asyncio.wait_for of Python 3.11 does when the reply is there as well
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
        return "went on"

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
