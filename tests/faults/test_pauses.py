"""SIGSTOP: servers that are there and say nothing, a worker that wakes up with an old batch in its hands."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.errors import Unavailable
from contracts.items import Item
from contracts.window import Window
from param_server.connection import connect_one
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import GROUP
from tests.faults.faulty_server import FaultyServer
from tests.param_server.samples import make_records, make_space
from tests.realtime_infer.workers import ended, process, until, wait_line

QUICK = StoreSettings(socket_timeout_s=0.2)


@pytest.mark.parametrize("pauses", [1, pytest.param(8, marks=pytest.mark.faults)])
async def test_a_table_server_that_stops_answers_late_or_never_but_never_wrongly(
    table_server: FaultyServer, outcomes: Counter[str], pauses: int
) -> None:
    space, ids = make_space(), [f"i{n}" for n in range(40)]
    writer, reader = connect_one(table_server.url, QUICK), connect_one(table_server.url, QUICK)
    store, stopped = Store(writer), asyncio.Event()
    await store.create_space(space)
    acknowledged, sent = 0, 1
    made = {1: make_records(space, [1] * len(ids), seed=1)}
    await store.commit_window(Window(space, ids, made[1], 0))

    async def write() -> None:
        nonlocal acknowledged, sent
        while not stopped.is_set():
            sent += 1
            made[sent] = make_records(space, [sent] * len(ids), seed=sent)
            try:
                assert (await store.commit_window(Window(space, ids, made[sent], 0))).all()
            except Unavailable:
                outcomes["commits_unknown"] += 1
                await asyncio.sleep(0.01)  # the breaker gives no answer at once
            else:
                acknowledged = sent
                outcomes["commits_acknowledged"] += 1

    async def read() -> None:
        while not stopped.is_set():
            least = acknowledged
            try:
                got = await Store(reader).fetch(space, None, ids)
            except Unavailable:
                outcomes["reads_given_up"] += 1
                await asyncio.sleep(0.01)
                continue
            for n, row in enumerate(got.records):
                assert row["sequence"] >= least
                assert row.tobytes() == made[int(row["sequence"])][n].tobytes()
            outcomes["reads_right"] += 1

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(read())
        for _ in range(pauses):
            before = Counter(outcomes)
            table_server.pause()
            await until(partial(_both, outcomes, before, "commits_unknown", "reads_given_up"))
            table_server.resume()
            outcomes["pauses"] += 1
            await until(partial(_both, outcomes, before, "commits_acknowledged", "reads_right"))
        stopped.set()
    stored = await store.sequences(space, ids)
    assert (stored >= acknowledged).all()
    assert (stored <= sent).all()
    await writer.aclose()
    await reader.aclose()


async def _both(outcomes: Counter[str], before: Counter[str], *names: str) -> bool:
    return all(outcomes[name] > before[name] for name in names)


@pytest.mark.faults
async def test_a_worker_that_slept_brings_nothing_old_back(
    table_server: FaultyServer, stream_server: FaultyServer, bundle: Bundle, outcomes: Counter[str]
) -> None:
    space = Encoder.open(str(bundle.path), bundle.digest).space
    settings: dict[str, Any] = {"stream_url": stream_server.url, "encoder_uri": bundle.path, "batch_size": 16}
    table, stream = (connect_one(s.url, StoreSettings()) for s in (table_server, stream_server))
    ingest = Ingest(stream, EncoderSettings())
    ids = [f"item-{n}" for n in range(400)]
    with process(
        "run_worker", table_server.url, consumer="slow", reclaim_idle_ms=600_000, **settings
    ) as slow:
        wait_line(slow, "ready ")
        for item_id in ids:
            await ingest.push(Item(item_id, {"title": f"old {item_id}"}))
        async with asyncio.timeout(30):
            while True:  # stop it at moments until it is caught with a batch in its hands
                os.kill(slow.pid, signal.SIGSTOP)
                held = sum([await _held(stream, keys.pushes) for keys in await ingest.partitions.all()])
                if held:
                    break
                assert (await ingest.backlog()).entries, "it was done before it was caught"
                os.kill(slow.pid, signal.SIGCONT)
                await asyncio.sleep(0.002)
        newest = [(await ingest.push(Item(item_id, {"title": "new"}))).sequence for item_id in ids]
        with process(
            "run_worker", table_server.url, consumer="other", reclaim_idle_ms=200, **settings
        ) as other:
            statuses = await ended(ingest, ids, 60)
            other.send_signal(signal.SIGTERM)
            other.wait(15)
        before = (await Store(table).fetch(space, None, ids)).records.tobytes()
        os.kill(slow.pid, signal.SIGCONT)
        last = [f"last-{n}" for n in range(64)]  # some of every partition
        for item_id in last:
            await ingest.push(Item(item_id, {"title": "only the one that slept is left to do it"}))
        await ended(ingest, last, 30)
    assert {status.state for status in statuses} == {PushState.SCOREABLE}
    assert (await Store(table).sequences(space, ids)).tolist() == newest
    assert (await Store(table).fetch(space, None, ids)).records.tobytes() == before
    outcomes["pushes_held_by_the_sleeper"] += held
    outcomes["items_kept_at_their_newest"] += len(ids)
    await table.aclose()
    await stream.aclose()


async def _held(stream: Redis, pushes: bytes) -> int:
    """Entries of a partition that a worker holds."""
    summary: Any = await stream.xpending(pushes, GROUP)
    return int(summary["pending"])


@pytest.mark.faults
async def test_a_stream_server_that_stops_loses_no_acknowledged_push(
    table_server: FaultyServer, stream_server: FaultyServer, bundle: Bundle, outcomes: Counter[str]
) -> None:
    space = Encoder.open(str(bundle.path), bundle.digest).space
    settings: dict[str, Any] = {
        "stream_url": stream_server.url,
        "encoder_uri": bundle.path,
        "socket_timeout_s": 0.4,
    }
    table, stream = connect_one(table_server.url, StoreSettings()), connect_one(stream_server.url, QUICK)
    ingest, acknowledged = Ingest(stream, EncoderSettings()), {}
    with process("run_worker", table_server.url, consumer="w", reclaim_idle_ms=500, **settings) as worker:
        wait_line(worker, "ready ")
        for n in range(300):
            if n in (100, 200):
                stream_server.pause()
                asyncio.get_running_loop().call_later(1.5, stream_server.resume)
                outcomes["pauses"] += 1
            try:
                acknowledged[f"i{n}"] = (await ingest.push(Item(f"i{n}", {"title": str(n)}))).sequence
                outcomes["pushes_acknowledged"] += 1
            except Unavailable:
                outcomes["pushes_given_up"] += 1
        await ended(ingest, list(acknowledged), 60)
    assert (await Store(table).sequences(space, list(acknowledged))).tolist() == list(acknowledged.values())
    assert outcomes["pushes_given_up"]
    await table.aclose()
    await stream.aclose()
