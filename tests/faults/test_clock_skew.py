"""Clocks that are hours off: the order of writes comes from the door's counter, never from a clock."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from itertools import permutations
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.window import Window
from param_server.behaviours import Behaviours
from param_server.connection import connect_one
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.windows import Windows
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from tests.faults.faulty_server import FaultyServer
from tests.param_server.samples import make_records, make_space
from tests.realtime_infer.workers import ended, process, wait_line, windows

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000


async def test_windows_of_skewed_clocks_end_as_their_sequences_say(
    redis: Redis, tmp_path: Path, outcomes: Counter[str]
) -> None:
    space = make_space(dim=4)
    store = Store(redis)
    await store.create_space(space)
    announcing = Windows(store, redis, max_windows=1_000)
    offline = OfflineTable(str(tmp_path))
    clocks = (NOW_MS - 9 * HOUR_MS, NOW_MS, NOW_MS + 9 * HOUR_MS)
    for by_clock in permutations(clocks):
        for order in permutations((1, 2, 3)):
            item_id = f"{by_clock} {order}"
            for sequence in order:
                records = make_records(space, [sequence], seed=sequence)
                held = await announcing.commit(Window(space, [item_id], records, by_clock[sequence - 1]))
                if held.item_ids:
                    offline.append(held, f"w{sequence}")
            outcomes["orders_of_skewed_writes"] += 1
    ids, rows = offline.read(space)
    got = await store.fetch(space, None, ids)
    assert len(ids) == 36
    assert set(got.records["sequence"].tolist()) == {3}
    assert got.records.tobytes() == rows.tobytes()


@pytest.mark.faults
async def test_doors_and_workers_whose_clocks_are_hours_off(
    table_server: FaultyServer, bundle: Bundle, outcomes: Counter[str]
) -> None:
    """Each version of the items goes through another door and another worker, first ahead, then behind."""
    space = Encoder.open(str(bundle.path), bundle.digest).space
    redis = connect_one(table_server.url, StoreSettings())
    ingest, ids = Ingest(redis, EncoderSettings()), [f"i{n}" for n in range(20)]
    sequences: list[list[int]] = []
    behaviours = Behaviours(redis)
    for version, ahead_s in enumerate((6 * 3_600, -6 * 3_600, 0)):
        with (
            process("run_door", table_server.url, ahead_s=ahead_s) as door,
            process(
                "run_worker", table_server.url, ahead_s=ahead_s, encoder_uri=bundle.path, consumer="w"
            ) as worker,
        ):
            ready = re.search(r"http=(\S+)", wait_line(door, "ready "))
            assert ready is not None
            async with httpx.AsyncClient(base_url=ready[1], timeout=15) as client:
                given = []
                for item_id in ids:
                    answer = await client.post(
                        "/v1/items", json={"item_id": item_id, "title": f"version {version}"}
                    )
                    assert answer.status_code == 202, answer.text
                    given.append(answer.json()["sequence"])
                event = {"user_id": "u", "item_id": f"seen-{version}"}
                answer = await client.post("/v1/events", json=event | {"timestamp_ms": _now_ms() - 5_000})
                ancient = await client.post("/v1/events", json=event | {"timestamp_ms": version})
                assert ancient.status_code // 100 == 2, ancient.text
                if ahead_s < 0:  # it cannot tell the present from a far future, and says so
                    assert answer.status_code == 422
                    assert "ahead of this machine's clock" in answer.text
                    outcomes["events_refused_by_a_clock_behind"] += 1
                else:
                    assert answer.status_code // 100 == 2, answer.text
                    outcomes["events_accepted"] += 1
            await ended(ingest, ids, 30)
            sequences.append(given)
            worker.send_signal(signal.SIGTERM)
            door.send_signal(signal.SIGTERM)
            worker.wait(15)
            door.wait(15)
        stored = await Store(redis).sequences(space, ids)
        assert stored.tolist() == given
        outcomes["items_at_their_newest"] += len(ids)
    assert (np.diff(sequences, axis=0) > 0).all()
    committed = [window.committed_ms for window in await windows(redis, space)]
    assert max(committed) - min(committed) > 11 * HOUR_MS  # the clocks really were apart
    seen = [behaviour.item_id for behaviour in (await behaviours.read(["u"]))[0]]
    assert seen == ["seen-0", "seen-1", "seen-2", "seen-0", "seen-2"]  # three of 1970, then those of today
    await redis.aclose()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
