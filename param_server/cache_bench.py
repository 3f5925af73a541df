"""What a fetch takes whose rows are all in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from redis.asyncio import Redis

from contracts.codec import Rows
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
    finally:
        await cache.close()
    return found
