"""Thousands of replies on one connection, and what becomes of it when not all of them arrive.

The server is real; between it and the client stands a wire that cuts, holds or passes what the server sends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import numpy as np
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.errors import DeadlineExceeded, Unavailable
from contracts.space import Space
from param_server import keys
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from param_server.store import MAX_FETCH, Store
from tests.param_server.samples import make_records, make_space, make_window

ITEMS = [f"item {i}" for i in range(2_000)]
_FOR_EVER = 1 << 62


class Wire:
    """A TCP port in front of the server. Each connection passes `budgets.pop(0)` bytes of replies, then
    stops: it is closed, or says nothing more while `hold` is set. Without a budget everything passes."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self.budgets: list[int] = []
        self.hold = False
        self.connections = 0
        self.url = ""
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def close(self) -> None:
        """Cut whatever is left, and wait until it has gone."""
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.add(cast("asyncio.Task[None]", asyncio.current_task()))
        back, out = await asyncio.open_unix_connection(self._socket)
        self._writers += [writer, out]
        up = asyncio.create_task(self._copy(reader, out))
        try:
            while data := await back.read(1 << 14):
                if self.budgets:
                    self.budgets[0] -= len(data)
                    if self.budgets[0] < 0:
                        writer.write(data[: self.budgets[0]])
                        self.budgets.pop(0)
                        await writer.drain()
                        if self.hold:
                            await asyncio.wait_for(up, 30)
                        return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the client has gone
        finally:
            for end in (writer, out):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            await up

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()


@pytest_asyncio.fixture
async def wire(server: EmbeddedServer) -> AsyncIterator[Wire]:
    wire = Wire(server.url.removeprefix("unix://"))
    listening = await wire.open()
    yield wire
    listening.close()
    await wire.close()


@pytest_asyncio.fixture
async def far(wire: Wire) -> AsyncIterator[Redis]:
    """A client behind the wire with one connection, so that whatever is left on it meets the next call."""
    client = connect_one(wire.url, StoreSettings(max_connections=1, socket_timeout_s=0.5))
    yield client
    await client.aclose()


async def filled(redis: Redis) -> Space:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    assert (await store.commit_window(make_window(space, ITEMS, range(1, len(ITEMS) + 1)))).all()
    return space


async def check(store: Store, space: Space) -> None:
    """Another order than before: a reply that was left on the connection would be seen."""
    got = await store.fetch(space, None, ITEMS[:0:-1])
    assert got.found.all()
    assert got.records["sequence"].tolist() == list(range(len(ITEMS), 1, -1))


async def test_a_connection_that_is_cut_between_replies_is_tried_again(
    redis: Redis, wire: Wire, far: Redis
) -> None:
    space, store = await filled(redis), Store(far)
    await check(store, space)
    for budget in (0, 1, 3_000, 60_000):
        await far.connection_pool.disconnect()
        wire.budgets = [500 + budget, _FOR_EVER]  # what is said when a connection begins is shorter than 500
        connections = wire.connections
        await check(store, space)
        assert wire.connections == connections + 2
    wire.budgets = []


async def test_a_connection_that_is_cut_twice_is_unavailable_and_never_used_again(
    redis: Redis, wire: Wire, far: Redis
) -> None:
    space, store = await filled(redis), Store(far)
    wire.budgets = [9_000, 9_000]
    with pytest.raises(Unavailable, match="read space"):
        await store.fetch(space, None, ITEMS)
    wire.budgets = []
    await check(store, space)


async def test_replies_that_stop_are_unavailable_within_the_timeout(
    redis: Redis, wire: Wire, far: Redis
) -> None:
    space, store = await filled(redis), Store(far)
    wire.budgets, wire.hold = [9_000], True
    with pytest.raises(Unavailable, match="no reply from Redis in time"):
        await store.fetch(space, None, ITEMS)
    wire.hold = False
    await check(store, space)


async def test_a_caller_that_gives_up_leaves_no_replies_behind(redis: Redis, wire: Wire, far: Redis) -> None:
    space, store = await filled(redis), Store(far)
    for how in ("timeout", "cancel"):
        wire.budgets, wire.hold = [9_000], True
        if how == "timeout":
            with pytest.raises((DeadlineExceeded, TimeoutError)):
                async with asyncio.timeout(0.1):
                    await store.fetch(space, None, ITEMS)
        else:
            task = asyncio.create_task(store.fetch(space, None, ITEMS))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        wire.hold = False
        await check(store, space)


async def test_an_error_among_the_replies_is_unavailable_and_its_neighbours_are_read(redis: Redis) -> None:
    space, store = await filled(redis), Store(redis)
    key = keys.records(space.id, space.buckets).key_of(b"item 1000").decode()
    await redis.delete(key)
    await redis.set(key, "no hash")
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await store.fetch(space, None, ITEMS)
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await store.commit_window(make_window(space, ["item 1000"], [9_999]))
    rest = ITEMS[:900]
    assert (await store.fetch(space, None, rest)).records["sequence"].tolist() == list(range(1, 901))
    await redis.delete(key)


async def test_scripts_that_the_server_forgot_are_loaded_again(redis: Redis) -> None:
    space, store = await filled(redis), Store(redis)
    await redis.script_flush()
    assert (await store.commit_window(make_window(space, ITEMS, range(5_000, 7_000)))).all()
    assert (await store.sequences(space, ITEMS)).tolist() == list(range(5_000, 7_000))


async def test_as_many_ids_as_may_be(redis: Redis) -> None:
    space, store = make_space(), Store(redis)
    await store.create_space(space)
    ids = [f"{i}" * 8 for i in range(MAX_FETCH)]
    for at in range(0, MAX_FETCH, 4_096):
        await store.commit_window(make_window(space, ids[at : at + 4_096], range(at + 1, at + 4_097)))
    got = await store.fetch(space, None, ids)
    assert got.found.all()
    assert got.records["sequence"].tolist() == list(range(1, MAX_FETCH + 1))
    first = make_records(space, range(1, 4_097))
    assert np.array_equal(got.records[:4_096], first)
