"""How much of a catalogue a generation's tables hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.errors import InvalidInput
from contracts.items import check_item_id
from contracts.manifest import Generation
from contracts.space import Space
from param_server import keys
from param_server.record_file import batches, open_parquet
from param_server.rows import join_records
from param_server.scan import scan
from param_server.server import Server
from param_server.store import Store

_CHUNK = 4_096

Ids = AsyncIterator[list[str]]


@dataclass(frozen=True)
class Coverage:
    """items: asked for; content, id_rows: of them, how many have a live record, and a trained ID row."""

    items: int
    content: int
    id_rows: int

    @property
    def content_share(self) -> float:
        return self.content / self.items if self.items else 1.0

    @property
    def id_row_share(self) -> float:
        return self.id_rows / self.items if self.items else 1.0


@dataclass(frozen=True)
class Catalogue:
    """Items that should be servable. name: for people; items: about how many; ids: a new pass over them."""

    name: str
    items: int
    ids: Callable[[], AsyncGenerator[list[str], None]]


async def live_catalogue(redis: Server, space: Space, sample: int | None) -> Catalogue:
    """The live items of a space, or those of as many of its buckets as hold about `sample` of them."""
    live = await Store(redis).count(space)
    numbers, items = None, live
    if sample is not None and sample < live:
        count = max(1, -(-sample * space.buckets // live))
        numbers, items = np.random.default_rng(0).permutation(space.buckets)[:count], sample

    async def ids() -> AsyncGenerator[list[str], None]:
        async with aclosing(scan(redis, keys.records(space.id, space.buckets), numbers)) as parts:
            async for part in parts:
                names = [item_id.decode() for item_id in part.ids]
                _, found = join_records(part.values, space.dtype, names, f"space {space.id}")
                yield [names[i] for i in np.flatnonzero(found).tolist()]

    which = "live items" if numbers is None else "a sample of the live items"
    return Catalogue(f"{which} of space {space.id}", items, ids)


async def file_catalogue(path: Path) -> Catalogue:
    """The column item_id of a Parquet file. Raises NotFound, InvalidInput (names file and column)."""

    def read() -> int:
        with open_parquet(path) as parquet:
            schema, rows = parquet.schema_arrow, int(parquet.metadata.num_rows)
        if "item_id" not in schema.names or schema.field("item_id").type not in (
            pa.string(),
            pa.large_string(),
        ):
            raise InvalidInput(f"{path.name}.item_id", schema.names, "must be a column of strings")
        return rows

    async def ids() -> AsyncGenerator[list[str], None]:
        parts = batches(path, ["item_id"], 0, _CHUNK)
        seen: set[str] = set()
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            names: list[str] = []
            for name in part[1]["item_id"].to_pylist():
                if name not in seen:
                    names.append(check_item_id(name, f"{path.name}.item_id"))
                    seen.add(name)
            yield names

    return Catalogue(path.name, await asyncio.to_thread(read), ids)


async def coverage(
    redis: Server,
    generations: Sequence[Generation],
    catalogue: Catalogue,
    progress: Callable[[int, int], None] | None = None,
) -> list[Coverage]:
    """Of each generation, in one pass over the catalogue. progress: called with items done and in all.

    Raises Unavailable, UnknownVersion or BrokenRow (a stored row that cannot be read), Conflict.
    """
    store = Store(redis)
    items, found = 0, np.zeros((len(generations), 2), np.int64)
    async with aclosing(catalogue.ids()) as parts:
        async for ids in parts:
            for start in range(0, len(ids), _CHUNK):
                chunk = ids[start : start + _CHUNK]
                for g, generation in enumerate(generations):
                    rows = await store.fetch(generation.space, generation.id_table, chunk)
                    found[g] += (np.count_nonzero(rows.found), np.count_nonzero(rows.id_found))
            items += len(ids)
            if progress is not None:
                progress(items, max(items, catalogue.items))
    return [Coverage(items, int(content), int(id_rows)) for content, id_rows in found]
