"""The tables of the shelf: content records per space and ID rows per immutable table, in hash buckets.

Every write of a content record goes through `Store.commit_window`. Layout: param_server.keys, docs/adr/0007.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from contracts.codec import ID_INT8, Rows, check_id_rows, check_records, id_row_dtype, stored_bytes
from contracts.errors import Conflict, InvalidInput, NotFound, RepcenterError, SpaceMismatch, TooLarge, shown
from contracts.manifest import IdTable, canonical
from contracts.space import Space, parse_header
from contracts.window import Window
from param_server import keys
from param_server.connection import redis_errors
from param_server.hget import hget, hget_each
from param_server.parts import Part, Uses, parse_part
from param_server.replicas import write_control
from param_server.rows import broken_head, join_id_rows, join_records, join_sequences
from param_server.scripts import run_by_shard, run_on_shards
from param_server.server import Server, ask
from param_server.server_checks import check_layout, check_policy

MAX_WINDOW = 4_096  # records of one commit: a script holds the server for as long as it runs
MAX_FETCH = 16_384
_CHUNK = 4_096
_ID_TABLE_VERSION = 1


@dataclass(frozen=True)
class Fetched:
    """Rows of K items, in the order asked for; read-only views of the replies where all were found.

    records: (K,) of the space's dtype, zero where not found; found: (K,) bool, False for absent and
    deleted items; id_rows: (K,) of the table's dtype, zero where absent; id_found: (K,) bool. stale: the
    store did not answer, these are a cache's rows, of any age; what is not cached counts as not found.
    """

    records: Rows
    found: npt.NDArray[np.bool_]
    id_rows: Rows
    id_found: npt.NDArray[np.bool_]
    stale: bool = False


class Store:
    """Tables on one server or a cluster. Every method raises Unavailable where it is gone, writes also
    where too few replicas have them in time (then they are done, and are to be repeated)."""

    def __init__(self, redis: Server) -> None:
        self._redis = redis
        self._uses = Uses(redis)
        self._bases: dict[str, IdTable] = {}  # of overlays, by name; sealed

    async def check_server(self) -> None:
        """Refuse a server that may drop rows by itself: Unavailable, with the command that fixes it."""
        await check_policy(self._redis)

    async def create_space(self, space: Space) -> None:
        """Store the header, then its digest with every shard. Idempotent; SpaceMismatch where the id holds
        another one, Conflict while it is being collected, Unavailable (with the fix) where the server would
        not pack its rows."""
        what = f"create space {space.id}"
        await self.check_server()
        await check_layout(self._redis, space.dtype.itemsize)
        stored = await self._uses.create(Part("space", space.id), space.header())
        if stored is not None:
            raise SpaceMismatch(space.header().decode(), _text(stored), what)
        async with redis_errors(what):
            writes: list[tuple[bytes, ...]] = []
            for key in _records(
                space
            ).shard_keys:  # the second is a change where the first is none: WAIT waits
                writes += [(b"HSETNX", key, b"header", _digest(space)), (b"HINCRBY", key, b"live", b"0")]
            await write_control(self._redis, *writes)

    async def space(self, space_id: str) -> Space:
        """The space of an id; NotFound, UnknownVersion."""
        async with redis_errors(f"read space {shown(space_id)}"):
            header = await cast(Any, self._redis.hget(cast(str, keys.spaces()), space_id))
        if header is None:
            raise NotFound("space", space_id)
        return parse_header(header)

    async def spaces(self) -> list[Space]:
        """All spaces, by id."""
        async with redis_errors("list spaces"):
            headers = await cast(Any, self._redis.hgetall(cast(str, keys.spaces())))
        return [parse_header(header) for _, header in sorted(headers.items())]

    async def commit_window(self, window: Window) -> npt.NDArray[np.bool_]:
        """Write a window of at most MAX_WINDOW records in one round trip -> accepted (K,) bool.

        A record is accepted when its sequence is newer than the stored one, or equal with equal bytes
        (so a redelivered window is accepted again). Deleted items keep a 12-byte header with their
        sequence. Each shard's part is atomic. Raises NotFound (no such space), SpaceMismatch,
        UnknownVersion, TooLarge, Conflict (the space is being collected).
        """
        space, count = window.space, len(window.item_ids)
        if count > MAX_WINDOW:
            raise TooLarge("window", count, MAX_WINDOW, "records")
        ids = keys.id_bytes(window.item_ids)
        check_records(window.records, "window")
        await self._uses.write(Part("space", space.id))
        accepted = np.zeros(count, dtype=bool)
        async with redis_errors(f"commit to space {space.id}"):
            replies = await run_by_shard(
                self._redis,
                "commit_window",
                _records(space),
                ids,
                stored_bytes(window.records),
                _digest(space),
            )
        for rows, (status, *detail) in replies:
            if status == b"space":
                raise await self._no_space(space)
            if status == b"version":
                where = f"space {space.id}, item {shown(window.item_ids[rows[detail[0]]])}"
                raise broken_head(detail[1], where, space.codec)
            accepted[rows] = np.frombuffer(detail[0], np.uint8) == ord("1")
        return accepted

    async def _no_space(self, space: Space) -> RepcenterError:
        """Why a shard is not one of the space."""
        stored = await self.space(space.id)
        if stored == space:
            return NotFound("shard of space", space.id)  # not created to its end: create_space() again
        return SpaceMismatch(space.header().decode(), stored.header().decode(), "commit")

    async def fetch(
        self, space: Space, id_table: IdTable | Sequence[IdTable] | None, item_ids: Sequence[str]
    ) -> Fetched:
        """Content records and ID rows of K distinct ids in one round trip; none for no ids.

        id_table: several of one codec and dim lie over one another, the first that has a row of an id gives
        it; an overlay brings its base. K is at most MAX_FETCH. Missing rows are masks, never defaults: where
        an ID table is not there, or is being collected, nothing at all is found, not half. Ends with the
        caller's asyncio.timeout, whatever it waits for. Raises TooLarge, InvalidInput, Conflict (an overlay
        whose base is not there), UnknownVersion (a stored row of another version), BrokenRow (one of a wrong
        length).
        """
        count = len(item_ids)
        tables = [id_table] if isinstance(id_table, IdTable) else list(id_table or ())
        tables = [layer for table in tables for layer in await self._layers(table)]
        shapes = {(table.codec, table.dim) for table in tables} or {(ID_INT8, 0)}
        if len(shapes) > 1:
            raise InvalidInput("id_table", sorted(shapes), "must be tables of one codec and dim")
        codec, dim = shapes.pop()
        if count > MAX_FETCH:
            raise TooLarge("item_ids", count, MAX_FETCH, "ids")
        id_dtype = id_row_dtype(codec, dim)
        nothing = np.zeros(count, dtype=bool)
        if count == 0:
            return Fetched(np.zeros(0, space.dtype), nothing, np.zeros(0, id_dtype), nothing)
        families = [_records(space), *(_id_rows(table.name, table.rows) for table in tables)]
        what = f"read space {space.id}"
        async with redis_errors(what):
            # Asked last: a collection retires every shard before it removes the first row.
            witnesses = [(family.shard_keys[0], b"description") for family in families[1:]]
            replies = await hget(self._redis, families, keys.id_bytes(item_ids), witnesses)
        if replies[len(families) * count :] != list(map(id_table_description, tables)):
            return Fetched(np.zeros(count, space.dtype), nothing, np.zeros(count, id_dtype), nothing)
        records, found = join_records(replies[:count], space.dtype, item_ids, what)
        id_rows, id_found = np.zeros(count, id_dtype), nothing
        for i, table in enumerate(tables, 1):
            what = f"read ID table {table.name}"
            rows, there = join_id_rows(replies[i * count : (i + 1) * count], id_dtype, codec, item_ids, what)
            id_rows = np.where(id_found, id_rows, rows) if i > 1 else rows
            id_found = id_found | there
        return Fetched(records, found, id_rows, id_found)

    async def sequences(self, space: Space, item_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        """Stored sequence of each id, deleted ones included -> (K,) uint64, 0 where absent."""
        out = np.zeros(len(item_ids), np.uint64)
        for chunk in _chunks(len(item_ids)):
            async with redis_errors(f"read space {space.id}"):
                replies = await hget(self._redis, [_records(space)], keys.id_bytes(item_ids[chunk]))
            out[chunk] = join_sequences(replies, f"space {space.id}", space.codec)
        return out

    async def deleted(self, space: Space, item_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether each id's item is deleted, (K,): `fetch` does not tell these from absent ones."""
        out = np.zeros(len(item_ids), bool)
        for chunk in _chunks(len(item_ids)):
            async with redis_errors(f"read space {space.id}"):
                replies = await hget(self._redis, [_records(space)], keys.id_bytes(item_ids[chunk]))
            _, found = join_records(replies, space.dtype, item_ids[chunk], f"space {space.id}")
            out[chunk] = [reply is not None for reply in replies]
            out[chunk] &= ~found
        return out

    async def high_water(self) -> int:
        """The newest sequence ever committed to any space, u64; 0 where there was none.

        A counter of sequences that is not above it (a new stream server) gives pushes that lose.
        """
        async with redis_errors("read the high water"):
            # in this order: a collection moves a space from the one to the other
            headers = await cast(Any, self._redis.hvals(cast(str, keys.spaces())))
            going = await cast(Any, self._redis.hgetall(cast(str, keys.collecting())))
            headers += [header for field, header in going.items() if parse_part(field).kind == "space"]
            names = [key for header in headers for key in _records(parse_header(header)).shard_keys]
            values = await hget_each(self._redis, names, b"high_water") if names else []
            # last: a collection raises it before it removes what told it
            value = await cast(Any, self._redis.get(keys.high_water()))
        return max(int.from_bytes(value or b"", "little") for value in (value, *values))

    async def count(self, space: Space) -> int:
        """Live records of a space; deleted ones are not counted."""
        async with redis_errors(f"count space {space.id}"):
            values = await hget_each(self._redis, _records(space).shard_keys, b"live")
        return sum(int(value or 0) for value in values)

    async def load_id_rows(self, table: IdTable, item_ids: Sequence[str], rows: Rows) -> None:
        """Add rows to a table that is not sealed yet. item_ids: K distinct ids; rows: (K,) of its dtype.

        Each shard's part of a chunk is atomic; rows that are there with equal bytes are passed over, so an
        interrupted load is repeated as a whole, and a sealed table accepts its own rows only. Raises
        Conflict where a row differs, where a sealed table lacks it, or where the name belongs to a table of
        another shape; UnknownVersion, InvalidInput.
        """
        dtype = id_row_dtype(table.codec, table.dim)
        if rows.dtype != dtype:
            raise InvalidInput("rows", str(rows.dtype), f"must be of dtype {dtype}")
        if len(item_ids) != len(rows):
            raise InvalidInput("item_ids", len(item_ids), f"must match {len(rows)} rows")
        check_id_rows(rows, table.codec)
        size = dtype.itemsize
        await self._describe(table)
        for chunk in _chunks(len(item_ids)):
            blob = rows[chunk].tobytes()
            async with redis_errors(f"load ID table {table.name}"):
                replies = await run_by_shard(
                    self._redis,
                    "load_id_rows",
                    _id_rows(table.name, table.rows),
                    keys.id_bytes(item_ids[chunk]),
                    [blob[at : at + size] for at in range(0, len(blob), size)],
                    id_table_description(table),
                    replicated=False,  # sealing waits
                )
            for places, (status, *detail) in replies:
                if status == b"description":
                    raise _other_shape(table, detail[0])
                if status != b"ok":
                    item_id = shown(item_ids[chunk][places[detail[0]]])
                    reason = "holds another row for" if status == b"differs" else "is finished and lacks"
                    raise Conflict(f"ID table {table.name} {reason} item {item_id}")

    async def seal_id_table(self, table: IdTable) -> None:
        """Make a loaded table final. Idempotent.

        Conflict where it does not hold `table.rows` rows, or where its base is not a sealed full table of the
        same codec and dim.
        """
        if table.base is not None and await self._base(table) is None:
            raise Conflict(f"ID table {table.name}: its base {table.base} is not loaded and sealed")
        await self._describe(table)
        if await self.id_table_ready(table):
            await self._uses.seal(Part("id_table", table.name))  # again: its replicas may not have had it
            return
        name = uuid.uuid4().bytes
        loaded = await self._state(table, b"count", name)
        if loaded == table.rows:
            loaded = await self._state(table, b"seal", name)  # from here on no row can be added
            if loaded != table.rows:
                await self._state(table, b"open", name)
        if loaded != table.rows:
            raise Conflict(f"ID table {table.name} holds {loaded} rows, must hold {table.rows}")
        await self._uses.seal(Part("id_table", table.name))

    async def _state(self, table: IdTable, step: bytes, name: bytes) -> int:
        """A step of the sealing (seal_id_table.lua) on every shard of a table -> the rows that are loaded."""
        family, values = _id_rows(table.name, table.rows), [id_table_description(table), step, name]
        async with redis_errors(f"seal ID table {table.name}"):
            replies = await run_on_shards(self._redis, "seal_id_table", family, values)
        for status, detail in replies:
            if status == b"description":
                raise _other_shape(table, detail)
        return sum(detail for _, detail in replies)

    async def _describe(self, table: IdTable) -> None:
        """The name belongs to a table of this shape from now on; Conflict where it is another's."""
        await self.check_server()
        await check_layout(self._redis, id_row_dtype(table.codec, table.dim).itemsize)
        stored = await self._uses.create(Part("id_table", table.name), id_table_description(table))
        if stored is not None:
            raise _other_shape(table, stored)
        shard = _id_rows(table.name, table.rows).shard_keys[0]  # where readers look whether it is there
        async with redis_errors(f"load ID table {table.name}"):
            await write_control(self._redis, (b"HSETNX", shard, b"description", id_table_description(table)))

    async def id_table_ready(self, table: IdTable) -> bool:
        """Whether the table is sealed, and its base. Conflict where a name belongs to another shape."""
        if table.base is not None and await self._base(table) is None:
            return False
        description, sealed = await self._described(table.name)
        if description is not None and description != id_table_description(table):
            raise _other_shape(table, description)
        return sealed

    async def _described(self, name: str) -> tuple[bytes | None, bool]:
        """The description under a table's name, and whether that table is sealed."""
        async with redis_errors(f"read ID table {name}"):
            sealed, description = await ask(  # sealed first: what is sealed is described
                self._redis,
                (b"SISMEMBER", keys.id_tables_sealed(), name.encode()),
                (b"HGET", keys.id_tables(), name.encode()),
            )
        return description, bool(sealed)

    async def _layers(self, table: IdTable) -> tuple[IdTable, ...]:
        """A table, and what it lies over."""
        if table.base is None:
            return (table,)
        base = await self._base(table)
        if base is None:
            raise Conflict(f"ID table {table.name}: its base {table.base} is not loaded and sealed")
        return (table, base)

    async def _base(self, overlay: IdTable) -> IdTable | None:
        """An overlay's base, None until it is sealed; Conflict where it cannot be one.

        Sealed tables never change, so one that was found is not asked for again.
        """
        name = cast(str, overlay.base)
        base = self._bases.get(name)
        if base is None:
            description, sealed = await self._described(name)
            if description is None:
                return None
            stored = json.loads(description)
            base = IdTable(name, stored.get("codec"), stored.get("dim"), stored.get("rows"))
            if description != id_table_description(base) or (base.codec, base.dim) != (
                overlay.codec,
                overlay.dim,
            ):
                raise Conflict(f"ID table {overlay.name} cannot lie over {name}: {_text(description)}")
            if not sealed:
                return None
            self._bases[name] = base
        if (base.codec, base.dim) != (overlay.codec, overlay.dim):
            raise Conflict(f"ID table {overlay.name} cannot lie over {name} of another codec or dim")
        return base


def _records(space: Space) -> keys.Family:
    return _records_of(space.id, space.buckets)


@lru_cache(maxsize=64)
def _records_of(space_id: str, buckets: int) -> keys.Family:
    return keys.records(space_id, buckets)


@lru_cache(maxsize=64)
def _id_rows(table: str, rows: int) -> keys.Family:
    return keys.id_rows(table, rows)


def _digest(space: Space) -> bytes:
    return hashlib.sha256(space.header()).digest()


def id_table_description(table: IdTable) -> bytes:
    """A table's shape as stored beside it: canonical JSON."""
    return canonical(
        {
            "version": _ID_TABLE_VERSION,
            "codec": table.codec,
            "dim": table.dim,
            "rows": table.rows,
            **({} if table.base is None else {"base": table.base}),
        }
    )


def _other_shape(table: IdTable, stored: bytes) -> Conflict:
    return Conflict(
        f"ID table {table.name} is {id_table_description(table).decode()}, stored is {_text(stored)}"
    )


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def _text(value: bytes | None) -> str:
    return "nothing" if value is None else value.decode(errors="replace")
