"""Rows of a space or an ID table, out of the server in small steps, so that nobody waits for long.

First every shard is retired, which refuses writers and tells readers; only then are buckets unlinked. Each
step can be repeated, so a removal that was killed is done again from the beginning.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np

from contracts.errors import Conflict
from contracts.space import SHARDS, parse_header
from param_server import keys
from param_server.connection import redis_errors
from param_server.control import parse_table
from param_server.hget import hget_each
from param_server.keys import Family
from param_server.parts import Part
from param_server.scripts import Script, run_calls, run_on_shards
from param_server.server import Server

_BATCH = 512  # buckets of one round trip: some tenths of a millisecond of the server
_REST = 1.0  # it rests for so many times as long as a batch took
_SHORTEST_REST_S = 0.001

Call = tuple[list[bytes], list[bytes]]  # KEYS, ARGV

_RETIRED = b"collected"
_RETIRE = {
    "space": [b"header", _RETIRED],
    "id_table": [b"description", _RETIRED, b"state", _RETIRED],
}


def family_of(part: Part, stored: bytes) -> Family:
    """The keys of a space, stored: its header, or of an ID table, stored: its description."""
    if part.kind == "space":
        return keys.records(part.name, parse_header(stored).buckets)
    return keys.id_rows(part.name, parse_table(part.name.encode(), stored).rows)


async def retire(redis: Server, part: Part, family: Family) -> None:
    """From here on no row is written, and readers can tell. The newest sequence is kept for ever."""
    async with redis_errors(f"retire {part}"):
        replies = await run_on_shards(redis, "retire_shard", family, _RETIRE[part.kind])
        waters = [int.from_bytes(reply[1], "little") for reply in replies if reply[0] == b"ok"]
        if part.kind == "space" and any(waters):
            await Script(redis, "raise_high_water")([keys.high_water()], [max(waters).to_bytes(8, "little")])


async def unlink_rows(
    redis: Server,
    part: Part,
    family: Family,
    beat: Callable[[], Awaitable[None]],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Unlink every bucket of retired shards, then the shards -> how many keys. beat: awaited between batches.

    Raises Conflict where a shard is not retired: it is somebody's.
    """
    async with redis_errors(f"remove {part}"):
        there = await hget_each(redis, family.shard_keys, b"retired")
    removed = done = 0
    for calls in _batches(family, [shard for shard, retired in enumerate(there) if retired is not None]):
        began = time.perf_counter()
        async with redis_errors(f"remove {part}"):
            replies, _ = await run_calls(redis, "unlink_rows", calls)
        if any(reply[0] != b"ok" for reply in replies):
            raise Conflict(f"{part}: a shard is not retired: another process made it anew")
        removed += sum(reply[1] for reply in replies)
        done += sum(len(names) - 1 for names, _ in calls)
        if progress is not None:
            progress(done, family.buckets)
        await asyncio.sleep(max(_SHORTEST_REST_S, _REST * (time.perf_counter() - began)))
        await beat()
    if progress is not None:
        progress(family.buckets, family.buckets)
    return removed


def _batches(family: Family, shards: Sequence[int]) -> Iterator[list[Call]]:
    """Calls of unlink_rows, so many together that they are of about _BATCH buckets."""
    calls: list[Call] = []
    buckets = 0
    for shard in reversed(shards):  # the first shard last: readers look at it
        names = family.keys(np.arange(shard, family.buckets, SHARDS))
        for start in range(0, len(names), _BATCH):
            some = names[start : start + _BATCH]
            if calls and buckets + len(some) > _BATCH:
                yield calls
                calls, buckets = [], 0
            last = b"last" if start + _BATCH >= len(names) else b""
            calls.append(([family.shard_keys[shard], *some], [last]))
            buckets += len(some)
    if calls:
        yield calls
