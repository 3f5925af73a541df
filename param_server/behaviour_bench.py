"""Measure the stored behaviours on this machine: bytes per user, appends, reads, bulk import."""

from __future__ import annotations

import asyncio
import json
import random
import string
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from redis.asyncio import Redis

from contracts.events import Event
from param_server.behaviour_import import import_interactions
from param_server.behaviours import Behaviours
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings

_FIRST_S = 1_600_000_000
_WRITERS = 32


def run(*, users: int = 5_000, as_json: bool = False) -> None:
    """Print the figures: of `users` users with 200 behaviours, and with 20."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measure(Path(folder), users))
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:34} {value:>12,}")


async def _measure(folder: Path, users: int) -> dict[str, float]:
    found: dict[str, float] = {}
    items = ["".join(random.choices(string.ascii_lowercase + string.digits, k=12)) for _ in range(5_000)]
    for each in (20, 200):
        with EmbeddedServer.start(folder / f"{each}") as server:
            async with connect_one(server.url, StoreSettings()) as redis:
                found |= await _filled(redis, folder, users, each, items)
                if each == 200:
                    found |= await _times(redis, users, items)
    fsyncs: tuple[Literal["always", "everysec"], ...] = ("always", "everysec")
    for appendfsync in fsyncs:
        with EmbeddedServer.start(folder / appendfsync, appendfsync=appendfsync) as server:
            async with connect_one(server.url, StoreSettings()) as redis:
                found[f"appends_per_s_{_WRITERS}_writers_{appendfsync}"] = await _concurrently(redis)
    return found


async def _filled(redis: Redis, folder: Path, users: int, each: int, items: list[str]) -> dict[str, float]:
    rows = users * each
    table = {
        "user_id": [f"user-{n % users:07d}" for n in range(rows)],
        "item_id": random.choices(items, k=rows),
        "timestamp": _FIRST_S + np.arange(rows),
    }
    pq.write_table(pa.table(table), folder / "i.parquet")
    before = (await redis.info("memory"))["used_memory"]
    began = time.perf_counter()
    await import_interactions(Behaviours(redis), folder / "i.parquet", folder / "ledger")
    seconds = time.perf_counter() - began
    per_user = ((await redis.info("memory"))["used_memory"] - before) / users
    return {
        f"bytes_per_user_{each}": round(per_user),
        f"ratio_to_packed_{each}": round(per_user / (12 + each * (17 + 12)), 3),
        f"import_rows_per_s_{each}": round(rows / seconds),
    }


async def _times(redis: Redis, users: int, items: list[str]) -> dict[str, float]:
    """Medians in milliseconds over users whose lists are full."""
    store, clock = Behaviours(redis), iter(range(2_000_000_000_000, 2**53))

    def event() -> Event:
        return Event(f"user-{random.randrange(users):07d}", random.choice(items), next(clock))

    steps: dict[str, tuple[int, Callable[[], Awaitable[object]]]] = {
        "append_1_p50_ms": (200, lambda: store.append([event()])),
        "append_1000_p50_ms": (20, lambda: store.append([event() for _ in range(1_000)])),
        "bare_get_p50_ms": (500, lambda: redis.get("nothing")),
        "read_1_p50_ms": (500, lambda: store.read([event().user_id])),
        "forget_p50_ms": (100, lambda: store.forget(event().user_id)),
    }
    return {name: await _p50_ms(times, step) for name, (times, step) in steps.items()}


async def _p50_ms(times: int, step: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await step()
        took.append(time.perf_counter() - began)
    return round(median(took) * 1e3, 3)


async def _concurrently(redis: Redis, calls: int = 20) -> float:
    store = Behaviours(redis)

    async def write(writer: int) -> None:
        for n in range(calls):
            await store.append([Event(f"u{writer}", "x", n)])

    await store.append([Event("u", "x", 1)])
    began = time.perf_counter()
    await asyncio.gather(*(write(writer) for writer in range(_WRITERS)))
    return round(_WRITERS * calls / (time.perf_counter() - began))
