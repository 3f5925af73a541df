"""Doors and workers as real processes: signals, kill -9, imports."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time

import httpx
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.items import Item
from param_server.embedded import EmbeddedServer
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState
from tests.encoder_bundle import picture
from tests.realtime_infer.workers import KEYS, ended, pending, process, wait_line, windows

PICTURE = picture((200, 100, 20), side=64, kind="JPEG")


async def test_kill_9_of_a_worker_in_the_middle_of_a_batch_loses_nothing(
    server: EmbeddedServer, redis: Redis, ingest: Ingest, store: Store, encoder: Encoder, bundle: Bundle
) -> None:
    ids = [f"item-{i}" for i in range(300)]
    receipts = [await ingest.push(Item(i, {"title": i}, image=PICTURE)) for i in ids]
    with process("run_worker", server.url, encoder_uri=bundle.path, consumer="first", batch_size=16) as first:
        wait_line(first, "ready ")
        deadline = time.monotonic() + 20
        while True:  # stop it at moments until it is caught with a batch in its hands
            first.send_signal(signal.SIGSTOP)
            if await pending(redis) > 0 and 0 < (await ingest.backlog()).entries < 300:
                break
            first.send_signal(signal.SIGCONT)
            assert time.monotonic() < deadline, "never caught in the middle of a batch"
            await asyncio.sleep(0.003)
        first.kill()
        first.wait()
    assert await pending(redis) > 0
    with process(
        "run_worker", server.url, encoder_uri=bundle.path, consumer="second", reclaim_idle_ms=200
    ) as second:
        statuses = await ended(ingest, ids)
        second.send_signal(signal.SIGTERM)
        assert second.wait(15) == 0
    assert {s.state for s in statuses} == {PushState.SCOREABLE}
    assert [s.sequence for s in statuses] == [r.sequence for r in receipts]
    assert (await store.sequences(encoder.space, ids)).tolist() == [r.sequence for r in receipts]
    announced = {i for window in await windows(redis, encoder.space) for i in window.item_ids}
    assert announced == set(ids)
    assert await pending(redis) == 0
    assert await redis.xlen(KEYS.pushes) == 0
    assert (await ingest.backlog()).payload_bytes == 0


async def test_a_door_serves_and_ends_on_sigterm(server: EmbeddedServer, redis: Redis) -> None:
    with process("run_door", server.url) as door:
        ready = re.fullmatch(
            r"ready http=(http://127.0.0.1:\d+) grpc=127.0.0.1:\d+", wait_line(door, "ready")
        )
        assert ready is not None
        async with httpx.AsyncClient(base_url=ready[1]) as client:
            answer = await client.post("/v1/items", json={"item_id": "a", "title": "x"})
            assert answer.status_code == 202
        door.send_signal(signal.SIGTERM)
        assert door.wait(15) == 0
    assert await redis.xlen(KEYS.pushes) == 1


def test_doors_and_workers_import_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import pkgutil, importlib, realtime_infer
for module in pkgutil.iter_modules(realtime_infer.__path__):
    importlib.import_module(f"realtime_infer.{module.name}")
loaded = [name for name in sys.modules if name.startswith(("torch.", "transformers", "training", "serving"))]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
