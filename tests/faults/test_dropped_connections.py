"""Connections that end, or fall silent, at every byte of a commit and of a read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.errors import Unavailable
from contracts.manifest import IdTable
from contracts.space import Space
from contracts.window import Window
from param_server.connection import connect_one
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.faults.faulty_server import FaultyServer
from tests.param_server.samples import make_id_rows, make_records, make_space
from tests.tcp_proxy import TcpProxy, tcp_proxy

IDS = ["a", "{b}", "c\0", "\U0001f9e6", "e"]
TABLE = IdTable("t", ID_INT8, 16, len(IDS))


@dataclass(frozen=True)
class Shelf:
    """A space and an ID table, reached directly and through the proxy."""

    space: Space
    direct: Store
    client: Redis
    proxy: TcpProxy
    timeout_s: float

    @asynccontextmanager
    async def through(self, way: str | None = None, at: int | None = None) -> AsyncIterator[Store]:
        """A new client's store, all of whose bytes one way end after `at` of them."""
        if way is not None:
            setattr(self.proxy, way, at)
        client = connect_one(self.proxy.url, StoreSettings(socket_timeout_s=self.timeout_s))
        try:
            yield Store(client)
        finally:
            self.proxy.cut_asked = self.proxy.cut_after = None
            await client.aclose()

    async def sizes(self, read: bool) -> dict[str, int]:
        """Bytes each way of a client that does it once."""
        asked, replied = self.proxy.asked, self.proxy.replied
        async with self.through() as store:
            if read:
                await store.fetch(self.space, TABLE, IDS)
            else:
                first = make_records(self.space, [1] * len(IDS))
                await store.commit_window(Window(self.space, IDS, first, 0))
        return {"cut_asked": self.proxy.asked - asked, "cut_after": self.proxy.replied - replied}


@asynccontextmanager
async def shelf(server: FaultyServer, timeout_s: float = 2.0) -> AsyncIterator[Shelf]:
    space = make_space(dim=4)
    client = connect_one(server.url, StoreSettings())
    store = Store(client)
    await store.create_space(space)
    await store.load_id_rows(TABLE, IDS, make_id_rows(len(IDS)))
    await store.seal_id_table(TABLE)
    async with tcp_proxy(server.url) as proxy:
        yield Shelf(space, store, client, proxy, timeout_s)
    await client.aclose()


def _points(size: int, step: int) -> list[int]:
    return sorted({*range(0, size, step), size - 1, size, size + 1})


async def _commits(found: Shelf, step: int, outcomes: Counter[str], *, unknown_script: bool = False) -> None:
    """unknown_script: each time the server has to be told the script first."""
    await found.sizes(read=False)  # the server knows the script from here on
    if unknown_script:
        await found.client.script_flush()
    sizes = await found.sizes(read=False)
    sequence = int((await found.direct.sequences(found.space, IDS)).max())
    before = (await found.direct.fetch(found.space, None, IDS)).records
    for way, at in ((way, at) for way, size in sizes.items() for at in _points(size, step)):
        if unknown_script:
            await found.client.script_flush()
        sequence += 1
        records = make_records(found.space, [sequence] * len(IDS), seed=sequence)
        window = Window(found.space, IDS, records, 0)
        async with found.through(way, at) as store:
            try:
                assert (await store.commit_window(window)).all()
                acknowledged = True
            except Unavailable:
                acknowledged = False
        got = await found.direct.fetch(found.space, None, IDS)
        assert got.found.all()
        new = np.array([a.tobytes() == b.tobytes() for a, b in zip(got.records, records, strict=True)])
        old = np.array([a.tobytes() == b.tobytes() for a, b in zip(got.records, before, strict=True)])
        assert (new | old).all(), "a row is neither what it was nor what was sent"
        assert not acknowledged or new.all(), "acknowledged and not there"
        part = "whole" if new.all() else "nothing" if old.all() else "part"
        outcomes[f"commits_{'acknowledged' if acknowledged else f'cut_{part}_written'}"] += 1
        assert (await found.direct.commit_window(window)).all()  # sent again, as every writer does
        before = records


async def _reads(found: Shelf, step: int, outcomes: Counter[str]) -> None:
    records = make_records(found.space, [1 << 40] * len(IDS))
    await found.direct.commit_window(Window(found.space, IDS, records, 0))
    rows = make_id_rows(len(IDS))
    sizes = await found.sizes(read=True)
    for way, at in ((way, at) for way, size in sizes.items() for at in _points(size, step)):
        async with found.through(way, at) as store:
            try:
                got = await store.fetch(found.space, TABLE, IDS)
            except Unavailable:
                outcomes["reads_cut"] += 1
                found.proxy.cut_asked = found.proxy.cut_after = None
                got = await store.fetch(found.space, TABLE, IDS)  # by the same client: nothing is left over
            else:
                outcomes["reads_right"] += 1
        assert got.found.all()
        assert got.id_found.all()
        assert got.records.tobytes() == records.tobytes()
        assert got.id_rows.tobytes() == rows.tobytes()


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.faults)])
async def test_a_commit_that_is_cut_is_sent_again_and_nothing_is_torn(
    table_server: FaultyServer, outcomes: Counter[str], step: int
) -> None:
    async with shelf(table_server) as found:
        await _commits(found, step, outcomes)
        await _commits(found, 17 * step, outcomes, unknown_script=True)
    assert outcomes["commits_acknowledged"]
    assert outcomes["commits_cut_nothing_written"]
    assert outcomes["commits_cut_whole_written"]


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.faults)])
async def test_a_read_that_is_cut_gives_the_right_rows_or_none(
    table_server: FaultyServer, outcomes: Counter[str], step: int
) -> None:
    async with shelf(table_server) as found:
        await _reads(found, step, outcomes)
    assert outcomes["reads_cut"]
    assert outcomes["reads_right"]


@pytest.mark.faults
async def test_a_connection_that_falls_silent_is_given_up(
    table_server: FaultyServer, outcomes: Counter[str]
) -> None:
    async with shelf(table_server, timeout_s=0.1) as found, asyncio.timeout(90):
        found.proxy.ending = "hang"
        await _commits(found, 37, outcomes)
        await _reads(found, 37, outcomes)
    assert outcomes["commits_cut_part_written"] + outcomes["commits_cut_whole_written"]
    assert outcomes["reads_cut"]
