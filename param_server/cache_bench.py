"""What a fetch takes whose rows are all in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from redis.asyncio import Redis

from contracts.codec import ID_INT8, Rows
from contracts.manifest import IdTable
from contracts.space import Space
from param_server.cache import CacheLimits, RowCache
from param_server.frequency import MOST
from param_server.slots import OVERHEAD
from param_server.store import Store

_WARM = 20


async def cached_reads(
    redis: Redis, space: Space, ids: Sequence[str], records: Rows, counts: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Fetches of `counts` random ids each, all cached; every answer is compared with what was loaded.

    Then another table comes: how long the rows take to move, and how long the event loop was held at most.
    The ids of a request are strings of its own, as a door makes them. Raises AssertionError where a row was
    read from the server or differs.
    """
    size = space.dtype.itemsize + OVERHEAD
    cache = RowCache(Store(redis), redis, CacheLimits(len(ids) * size + size, bound_s=600.0))
    found: dict[str, Any] = {}
    try:
        cache.use(space, None)
        await cache.warm((space, None), ids, np.full(len(ids), MOST, np.uint8), 600.0)
        misses = cache.counts().misses["content"]
        for count in counts:
            generator, taken = np.random.default_rng(count), []
            for _ in range(rounds + _WARM):
                places = generator.choice(len(ids), count, replace=False)
                asked = [ids[i].encode().decode() for i in places.tolist()]
                began = time.perf_counter()
                got = await cache.fetch(space, None, asked)
                taken.append(time.perf_counter() - began)
                if not np.array_equal(got.records, records[places]):
                    raise AssertionError("the cache gave other bytes than the table was given")
            for q in (10, 50, 99):
                found[f"cached_{count}_p{q}_us"] = float(np.percentile(taken[_WARM:], q)) * 1e6
        if cache.counts().misses["content"] != misses:
            raise AssertionError("rows that were taken for cached were read from the table")
        found |= await _resized(cache, space, len(ids))
    finally:
        await cache.close()
    return found


async def _resized(cache: RowCache, space: Space, rows: int) -> dict[str, Any]:
    """A table that shares the slots with a second one, which has a row of 128 int8 numbers for each id."""
    held, ended = [0.0], asyncio.Event()

    async def turn() -> None:
        before = time.perf_counter()
        while not ended.is_set():
            await asyncio.sleep(0)
            held.append((now := time.perf_counter()) - before)
            before = now

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0)
    began = time.perf_counter()
    cache.use(space, IdTable("beside", ID_INT8, 128, 1))
    await cache.settled()
    took = time.perf_counter() - began
    ended.set()
    await turning
    if not 0 < cache.resident()["content"][0] < rows:
        raise AssertionError("the table was not made smaller")
    return {"cached_resize_ms": took * 1e3, "cached_resize_held_ms": max(held) * 1e3}
