"""All rows of a space as its serving table holds them, tombstones included, in parts of about a file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import numpy as np

from contracts.codec import Rows
from contracts.space import Space
from param_server import keys
from param_server.export import stored_records
from param_server.scan import scan
from param_server.server import Server

Part = tuple[list[str], Rows]


async def table_rows(
    table: Server, space: Space, part_bytes: int, between: Callable[[], Awaitable[object]]
) -> AsyncGenerator[Part, None]:
    """Ids and records (K,). between: awaited between reads. Raises Unavailable, UnknownVersion, BrokenRow."""
    held: list[Part] = []
    size, row = 0, space.dtype.itemsize
    async with aclosing(scan(table, keys.records(space.id, space.buckets))) as found:
        async for some in found:
            await between()
            ids, records, _ = stored_records(some.ids, some.values, space)
            held.append((ids, records))
            size += len(ids) * row
            if size >= part_bytes:
                yield _joined(held)
                held, size = [], 0
    if any(ids for ids, _ in held):
        yield _joined(held)


def _joined(parts: list[Part]) -> Part:
    return [i for ids, _ in parts for i in ids], np.concatenate([records for _, records in parts])
