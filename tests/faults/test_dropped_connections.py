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
from param_server.connection import connect
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.faults.faulty_server import FaultyServer
from tests.param_server.samples import make_id_rows, make_records, make_space
from tests.tcp_proxy import TcpProxy

IDS = ["a", "{b}", "c\0", "\U0001f9e6", "e"]
TABLE = IdTable("t", ID_INT8, 16, len(IDS))


@dataclass(frozen=True)
class Shelf:
    """A space and an ID table, reached directly and through the proxy."""

    space: Space
    direct: Store
    client: Redis
    through: Redis
    proxy: TcpProxy


@asynccontextmanager
async def shelf(server: FaultyServer, timeout_s: float = 2.0) -> AsyncIterator[Shelf]:
    space = make_space(dim=4)
    async with TcpProxy(server.socket) as proxy:
        client = connect(server.url, StoreSettings())
        through = connect(proxy.url, StoreSettings(socket_timeout_s=timeout_s))
        store = Store(client)
        await store.create_space(space)
        await store.load_id_rows(TABLE, IDS, make_id_rows(len(IDS)))
        await store.seal_id_table(TABLE)
        try:
            yield Shelf(space, store, client, through, proxy)
        finally:
            await through.aclose()
            await client.aclose()


async def _sizes(found: Shelf, read: bool) -> dict[str, int]:
    """Bytes of a connection that does it once, each way."""
    await found.through.connection_pool.disconnect()
    found.proxy.most_sent = found.proxy.most_received = 0
    if read:
        await Store(found.through).fetch(found.space, TABLE, IDS)
    else:
        await Store(found.through).commit_window(
            Window(found.space, IDS, make_records(found.space, [1] * len(IDS)), 0)
        )
    return {"sent": found.proxy.most_sent, "received": found.proxy.most_received}


async def _commits(found: Shelf, step: int, outcomes: Counter[str], *, unknown_script: bool = False) -> None:
    """unknown_script: each time the server has to be told the script first."""
    if unknown_script:
        await found.client.script_flush()
    sizes = await _sizes(found, read=False)
    sequence = int((await found.direct.sequences(found.space, IDS)).max())
    before = (await found.direct.fetch(found.space, None, IDS)).records
    for way, size in sizes.items():
        for at in sorted({*range(0, size, step), size - 1, size, size + 1}):
            if unknown_script:
                await found.client.script_flush()
            await found.through.connection_pool.disconnect()
            setattr(found.proxy, way, at)
            sequence += 1
            records = make_records(found.space, [sequence] * len(IDS), seed=sequence)
            window = Window(found.space, IDS, records, 0)
            try:
                accepted = await Store(found.through).commit_window(window)
                assert accepted.all()
                acknowledged = True
            except Unavailable:
                acknowledged = False
            setattr(found.proxy, way, None)
            got = await found.direct.fetch(found.space, None, IDS)
            assert got.found.all()
            new = np.array([row.tobytes() for row in got.records]) == np.array([r.tobytes() for r in records])
            old = np.array([row.tobytes() for row in got.records]) == np.array([r.tobytes() for r in before])
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
    for way, size in (await _sizes(found, read=True)).items():
        for at in sorted({*range(0, size, step), size - 1, size, size + 1}):
            await found.through.connection_pool.disconnect()
            setattr(found.proxy, way, at)
            try:
                got = await Store(found.through).fetch(found.space, TABLE, IDS)
            except Unavailable:
                outcomes["reads_cut"] += 1
            else:
                assert got.found.all()
                assert got.id_found.all()
                assert got.records.tobytes() == records.tobytes()
                assert got.id_rows.tobytes() == rows.tobytes()
                outcomes["reads_right"] += 1
            setattr(found.proxy, way, None)
            if found.proxy.silent:  # the one that was used up is in the pool again, and says nothing more
                await found.through.connection_pool.disconnect()
            again = await Store(found.through).fetch(found.space, TABLE, IDS)
            assert again.records.tobytes() == records.tobytes()


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.faults)])
async def test_a_commit_that_is_cut_is_sent_again_and_nothing_is_torn(
    table_server: FaultyServer, outcomes: Counter[str], step: int
) -> None:
    async with shelf(table_server) as found:
        await _sizes(found, read=False)  # the server knows the script from here on
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
        found.proxy.silent = True
        await _commits(found, 37, outcomes)
        await _reads(found, 37, outcomes)
    assert outcomes["commits_cut_part_written"] + outcomes["commits_cut_whole_written"]
    assert outcomes["reads_cut"]
