"""Every row of a space or an ID table, bucket by bucket: the keys are known, no SCAN finds them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.space import ROWS_PER_BUCKET
from param_server.connection import redis_errors
from param_server.keys import Family
from param_server.server import Server, ask

ROWS = 4_096  # about so many of one round trip
_COUNT = 1_024  # of one HSCAN, where a bucket outgrew its packed block; such a block comes whole


@dataclass(frozen=True)
class Scanned:
    """Some rows; an id comes once in all. buckets: done so far."""

    ids: list[bytes]
    values: list[bytes]
    buckets: int


async def scan(
    redis: Server, family: Family, numbers: npt.NDArray[np.int64] | None = None
) -> AsyncGenerator[Scanned, None]:
    """Rows of the buckets `numbers`, None = all.

    A row that is there from beginning to end is given; one that is written meanwhile may be given old or new,
    or not at all where it is new. Raises Unavailable.
    """
    buckets = np.arange(family.buckets) if numbers is None else numbers
    done = rows = 0
    step = ROWS // ROWS_PER_BUCKET
    while done < len(buckets):
        part = buckets[done : done + step]
        found: dict[bytes, bytes] = {}
        open_cursors = [(key, b"0") for key in family.keys(part)]
        while open_cursors:
            replies = await _hscan(redis, open_cursors)
            for _, pairs in replies:
                found.update(zip(pairs[0::2], pairs[1::2], strict=True))
            open_cursors = [
                (key, cursor)
                for (key, _), (cursor, _) in zip(open_cursors, replies, strict=True)
                if cursor != b"0"
            ]
        done, rows = done + len(part), rows + len(found)
        step = int(np.clip(ROWS * done / max(1, rows), 1, ROWS))
        yield Scanned(list(found), list(found.values()), done)


async def _hscan(redis: Server, cursors: list[tuple[bytes, bytes]]) -> list[tuple[bytes, list[bytes]]]:
    """One HSCAN per hash, all in one round trip -> its next cursor, and ids and values in turn."""
    count = b"%d" % _COUNT
    async with redis_errors("scan a table"):
        replies = await ask(redis, *((b"HSCAN", key, cursor, b"COUNT", count) for key, cursor in cursors))
    return [(bytes(cursor), pairs) for cursor, pairs in replies]
