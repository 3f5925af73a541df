"""kill -9 of the stream's server under pushes; of the table's server, with all that it had written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.codec import ID_INT8
from contracts.errors import NotFound, Unavailable
from contracts.manifest import IdTable
from contracts.space import Modality, Space, buckets_for
from contracts.window import Window
from param_server.connection import connect_one
from param_server.id_rows import write_id_rows
from param_server.record_file import RecordFiles, RecordFileWriter
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.table_load import load_id_rows, load_records
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from tests.faults.faulty_server import FaultyServer
from tests.param_server.samples import make_id_rows, make_records
from tests.realtime_infer.workers import ended, process, until, wait_line

ROOT = Path(__file__).parent.parent.parent
KILLS, PUSHERS, ITEMS = 4, 6, 120
ROWS = 40_000


class Pusher:
    """Pushes items round and round through a door; keeps the newest sequence that was answered with 202."""

    def __init__(self, url: str, outcomes: Counter[str]) -> None:
        self._url, self._outcomes = url, outcomes
        self.acknowledged: dict[str, int] = {}
        self.stopped = False

    async def run(self, first: int) -> None:
        """The items first, first + PUSHERS, …; each item has one pusher, so its answers come in order."""
        at = first
        async with httpx.AsyncClient(base_url=self._url, timeout=15) as client:
            while not self.stopped:
                item_id = f"item-{at % ITEMS}"
                answer = await client.post("/v1/items", json={"item_id": item_id, "title": f"version {at}"})
                assert answer.status_code in (202, 503), answer.text
                if answer.status_code == 202:
                    sequence = answer.json()["sequence"]
                    assert sequence > self.acknowledged.get(item_id, 0), "a number was given twice"
                    self.acknowledged[item_id] = sequence
                    self._outcomes["pushes_acknowledged"] += 1
                else:
                    self._outcomes["pushes_refused"] += 1
                at += PUSHERS


@pytest.mark.faults
async def test_what_was_acknowledged_comes_through_a_stream_server_that_is_killed(
    table_server: FaultyServer, stream_server: FaultyServer, bundle: Bundle, outcomes: Counter[str]
) -> None:
    space = Encoder.open(str(bundle.path), bundle.digest).space
    settings: dict[str, Any] = {
        "stream_url": stream_server.url,
        "encoder_uri": bundle.path,
        "reclaim_idle_ms": 300,
    }
    table, stream = (connect_one(s.url, StoreSettings()) for s in (table_server, stream_server))
    with (
        process("run_door", table_server.url, **settings) as door,
        process("run_worker", table_server.url, consumer="w", **settings) as worker,
    ):
        ready = re.search(r"http=(\S+)", wait_line(door, "ready "))
        wait_line(worker, "ready ")
        assert ready is not None
        pusher = Pusher(ready[1], outcomes)
        pushing = [asyncio.create_task(pusher.run(first)) for first in range(PUSHERS)]
        for _ in range(KILLS):
            before = Counter(outcomes)
            await until(partial(_grown, outcomes, before, "pushes_acknowledged", 40))
            stream_server.kill()
            outcomes["kills_of_the_stream_server"] += 1
            await until(partial(_grown, outcomes, before, "pushes_refused", 1))
            stream_server.start()
        before = Counter(outcomes)
        await until(partial(_grown, outcomes, before, "pushes_acknowledged", 40))
        pusher.stopped = True
        await asyncio.gather(*pushing)
        ingest = Ingest(stream, EncoderSettings())
        statuses = await ended(ingest, sorted(pusher.acknowledged), 60)
    items = sorted(pusher.acknowledged)
    stored = dict(zip(items, (await Store(table).sequences(space, items)).tolist(), strict=True))
    assert {status.state for status in statuses} == {PushState.SCOREABLE}
    lost = [item_id for item_id in items if stored[item_id] < pusher.acknowledged[item_id]]
    assert not lost
    assert (await ingest.backlog()).entries == 0
    outcomes["items_scoreable_at_their_newest"] += len(items)
    await table.aclose()
    await stream.aclose()


async def _grown(outcomes: Counter[str], before: Counter[str], name: str, least: int) -> bool:
    return outcomes[name] - before[name] >= least


def _shape(rows: int) -> Space:
    return Space("ab" * 32, (Modality("text", 64), Modality("image", 64)), buckets=buckets_for(rows))


async def _table(server: FaultyServer, *words: str, status: int = 0) -> dict[str, object]:
    """`repcenter table … --json` as a process -> what it says."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPCENTER_")}
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "table", *words, "--json"),
        cwd=ROOT,
        env=environment | {"REPCENTER_REDIS_URL": server.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await running.communicate()
    assert running.returncode == status, errors.decode()
    found: dict[str, object] = json.loads(said)
    return found


@pytest.mark.faults
async def test_a_table_server_that_lost_everything_is_repaired_by_a_reload(
    table_server: FaultyServer, tmp_path: Path, outcomes: Counter[str]
) -> None:
    space, ids = _shape(ROWS), [f"item {n}" for n in range(ROWS)]
    records = make_records(space, range(1, ROWS + 1))
    id_rows = make_id_rows(5_000)
    redis = connect_one(table_server.url, StoreSettings())
    store = Store(redis)
    with RecordFileWriter(tmp_path / "first.parquet", space) as writer:
        writer.write(ids, records)
    await load_records(redis, RecordFiles.open(tmp_path / "first.parquet"))
    write_id_rows(tmp_path / "ids.parquet", ids[:5_000], id_rows)
    await load_id_rows(redis, tmp_path / "ids.parquet", "t")
    exported = str(tmp_path / "space.parquet"), str(tmp_path / "table.parquet")
    await _table(table_server, "export", exported[0])
    await _table(table_server, "export", exported[1], "--id-table", "t")

    table_server.kill()
    table_server.empty()
    table_server.start()
    began = time.perf_counter()
    live: dict[str, int] = {}
    reloaded = asyncio.Event()
    writing = asyncio.create_task(_push_meanwhile(store, space, live, reloaded, outcomes))
    report = await _table(table_server, "load", exported[0])
    await _table(table_server, "load", exported[1], "--id-table", "t")
    outcomes["repair_ms"] = round((time.perf_counter() - began) * 1e3)
    reloaded.set()
    await writing

    assert report["rows"] == ROWS
    table = IdTable("t", ID_INT8, 16, 5_000)
    assert await store.id_table_ready(table)
    for at in range(0, ROWS, 10_000):
        got = await store.fetch(space, table, ids[at : at + 10_000])
        expected = records[at : at + 10_000].copy()
        for n, item_id in enumerate(ids[at : at + 10_000]):
            if item_id in live:
                expected[n] = make_records(space, [live[item_id]], seed=live[item_id])[0]
        assert got.found.all()
        assert got.records.tobytes() == expected.tobytes()
        there = np.arange(at, at + 10_000) < 5_000
        assert got.id_found.tolist() == there.tolist()
        assert got.id_rows[there].tobytes() == id_rows[at : at + 10_000].tobytes()
    verified = await _table(table_server, "verify", exported[0])
    assert verified["agrees"]
    assert verified["newer"] >= len(live) > 0  # type: ignore[operator]  # by the file's rows and by the scan's
    outcomes["records_repaired"] = ROWS - len(live)
    outcomes["live_pushes_kept"] = len(live)
    await redis.aclose()


async def _push_meanwhile(
    store: Store, space: Space, live: dict[str, int], reloaded: asyncio.Event, outcomes: Counter[str]
) -> None:
    """Newer records of random items, written until the reload is done and once more."""
    draw, sequence, last = np.random.default_rng(0), ROWS + 1, False
    while not last:
        last = reloaded.is_set()
        sequence += 1
        item_id = f"item {draw.integers(ROWS)}"
        window = Window(space, [item_id], make_records(space, [sequence], seed=sequence), 0)
        try:
            assert (await store.commit_window(window)).all()
        except (NotFound, Unavailable):  # there is no space yet
            outcomes["live_pushes_that_had_to_wait"] += 1
        else:
            live[item_id] = sequence
        with suppress(TimeoutError):
            await asyncio.wait_for(reloaded.wait(), 0.002)
