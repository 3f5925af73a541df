"""The tables of the shelf: content records per space and ID rows per immutable table.

Layout of this version: one string key per row, read by MGET. A space with hash buckets is refused.
Every write of a content record goes through `Store.commit_window`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis

from contracts.codec import ID_INT8, Rows, check_id_rows, check_records, id_row_dtype, stored_bytes
from contracts.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    SpaceMismatch,
    TooLarge,
    UnknownVersion,
    shown,
)
from contracts.manifest import IdTable, canonical
from contracts.space import Space, parse_header
from contracts.window import Window
from param_server import keys
from param_server.connection import redis_errors
from param_server.mget import mget
from param_server.rows import broken_head, join_id_rows, join_records, join_sequences
from param_server.scripts import Script

MAX_WINDOW = 4_096  # records of one commit: a script holds the server for as long as it runs
MAX_FETCH = 16_384
_CHUNK = 4_096
_ID_TABLE_VERSION = 1


@dataclass(frozen=True)
class Fetched:
    """Rows of K items, in the order asked for; read-only views of the replies where all were found.

    records: (K,) of the space's dtype, zero where not found; found: (K,) bool, False for absent and
    deleted items; id_rows: (K,) of the table's dtype, zero where absent; id_found: (K,) bool.
    """

    records: Rows
    found: npt.NDArray[np.bool_]
    id_rows: Rows
    id_found: npt.NDArray[np.bool_]


class Store:
    """Tables on one Redis or Valkey server. Every method raises Unavailable where the server is gone."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._commit = Script(redis, "commit_window")
        self._load = Script(redis, "load_id_rows")
        self._seal = Script(redis, "seal_id_table")

    async def create_space(self, space: Space) -> None:
        """Store the header. Idempotent; SpaceMismatch where the id holds another header."""
        _check_layout(space)
        what = f"create space {space.id}"
        async with redis_errors(what), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hsetnx(keys.spaces(), space.id, cast(str, space.header()))
            pipeline.hget(keys.spaces(), space.id)
            _, header = await pipeline.execute()
        if header != space.header():
            raise SpaceMismatch(space.header().decode(), _text(header), what)

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
        """Write a window of at most MAX_WINDOW records in one atomic step -> accepted (K,) bool.

        A record is accepted when its sequence is newer than the stored one, or equal with equal bytes
        (so a redelivered window is accepted again). Deleted items keep a 12-byte header with their
        sequence. Raises NotFound (no such space), SpaceMismatch, UnknownVersion, TooLarge.
        """
        space, count = window.space, len(window.item_ids)
        _check_layout(space)
        if count > MAX_WINDOW:
            raise TooLarge("window", count, MAX_WINDOW, "records")
        ids = keys.id_bytes(window.item_ids)
        check_records(window.records, "window")
        prefix = keys.record_prefix(space.id)
        async with redis_errors(f"commit to space {space.id}"):
            status, detail, *rest = await self._commit(
                [keys.spaces(), keys.live_counts(), keys.high_water(), *(prefix + i for i in ids)],
                [space.id.encode(), space.header(), *stored_bytes(window.records)],
            )
        if status == b"space":
            if detail is None:
                raise NotFound("space", space.id)
            raise SpaceMismatch(space.header().decode(), _text(detail), "commit")
        if status == b"version":
            raise broken_head(rest[0], f"space {space.id}, item {shown(window.item_ids[detail])}")
        accepted: npt.NDArray[np.bool_] = np.frombuffer(detail, np.uint8) == ord("1")
        return accepted

    async def fetch(self, space: Space, id_table: IdTable | None, item_ids: Sequence[str]) -> Fetched:
        """Content records and ID rows of K distinct ids in one round trip; none for no ids.

        K is at most MAX_FETCH. Of an overlay, its base's row is taken where it has none itself. Missing rows
        are masks, never defaults. Raises TooLarge, UnknownVersion (a stored row of another version),
        BrokenRow (a row of a wrong length).
        """
        _check_layout(space)
        count = len(item_ids)
        if count > MAX_FETCH:
            raise TooLarge("item_ids", count, MAX_FETCH, "ids")
        codec, dim = (id_table.codec, id_table.dim) if id_table else (ID_INT8, 0)
        id_dtype = id_row_dtype(codec, dim)
        nothing = np.zeros(count, dtype=bool)
        if count == 0:
            return Fetched(np.zeros(0, space.dtype), nothing, np.zeros(0, id_dtype), nothing)
        ids = keys.id_bytes(item_ids)
        prefixes = [keys.record_prefix(space.id)]
        if id_table is not None:
            prefixes.append(keys.id_row_prefix(id_table.name))
            if id_table.base is not None:
                prefixes.append(keys.id_row_prefix(id_table.base))
        what = f"read space {space.id}"
        async with redis_errors(what):
            replies = await mget(self._redis, prefixes, ids)
        records, found = join_records(replies[:count], space.dtype, item_ids, what)
        if id_table is None:
            return Fetched(records, found, np.zeros(count, id_dtype), nothing)
        what = f"read ID table {id_table.name}"
        id_replies = replies[count : 2 * count]
        if id_table.base is not None:
            below = replies[2 * count :]
            id_replies = [b if own is None else own for own, b in zip(id_replies, below, strict=True)]
        id_rows, id_found = join_id_rows(id_replies, id_dtype, codec, item_ids, what)
        return Fetched(records, found, id_rows, id_found)

    async def sequences(self, space: Space, item_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        """Stored sequence of each id, deleted ones included -> (K,) uint64, 0 where absent."""
        _check_layout(space)
        prefixes = [keys.record_prefix(space.id)]
        out = np.zeros(len(item_ids), np.uint64)
        for chunk in _chunks(len(item_ids)):
            async with redis_errors(f"read space {space.id}"):
                replies = await mget(self._redis, prefixes, keys.id_bytes(item_ids[chunk]))
            out[chunk] = join_sequences(replies, f"space {space.id}")
        return out

    async def high_water(self) -> int:
        """The newest sequence ever committed to any space, u64; 0 where there was none.

        A counter of sequences that is not above it (a new stream server) gives pushes that lose.
        """
        async with redis_errors("read the high water"):
            value = await cast(Any, self._redis.get(keys.high_water()))
        return int.from_bytes(value or b"", "little")

    async def count(self, space: Space) -> int:
        """Live records of a space; deleted ones are not counted."""
        async with redis_errors(f"count space {space.id}"):
            value = await cast(Any, self._redis.hget(cast(str, keys.live_counts()), space.id))
        return int(value or 0)

    async def load_id_rows(self, table: IdTable, item_ids: Sequence[str], rows: Rows) -> None:
        """Add rows to a table that is not sealed yet. item_ids: K distinct ids; rows: (K,) of its dtype.

        Written in chunks, each atomic; rows that are there already with equal bytes are passed over, so
        an interrupted load is repeated as a whole, and a sealed table accepts its own rows only.
        Raises Conflict where a row differs, where a sealed table lacks it, or where the name belongs to
        a table of another shape; UnknownVersion, InvalidInput.
        """
        dtype = id_row_dtype(table.codec, table.dim)
        if rows.dtype != dtype:
            raise InvalidInput("rows", str(rows.dtype), f"must be of dtype {dtype}")
        if len(item_ids) != len(rows):
            raise InvalidInput("item_ids", len(item_ids), f"must match {len(rows)} rows")
        check_id_rows(rows, table.codec)
        prefix, size = keys.id_row_prefix(table.name), dtype.itemsize
        for chunk in _chunks(len(item_ids)):
            blob = rows[chunk].tobytes()
            async with redis_errors(f"load ID table {table.name}"):
                status, detail = await self._load(
                    [
                        *(keys.id_tables(), keys.id_tables_loaded(), keys.id_tables_sealed()),
                        *(prefix + i for i in keys.id_bytes(item_ids[chunk])),
                    ],
                    [
                        *(table.name.encode(), _description(table)),
                        *(blob[at : at + size] for at in range(0, len(blob), size)),
                    ],
                )
            if status == b"description":
                raise _other_shape(table, detail)
            if status != b"ok":
                item_id = shown(item_ids[chunk][detail])
                reason = "holds another row for" if status == b"differs" else "is finished and lacks"
                raise Conflict(f"ID table {table.name} {reason} item {item_id}")

    async def seal_id_table(self, table: IdTable) -> None:
        """Make a loaded table final. Idempotent.

        Conflict where it does not hold `table.rows` rows, or where its base is not a sealed full table of the
        same codec and dim.
        """
        if table.base is not None and not await self._base_ready(table):
            raise Conflict(f"ID table {table.name}: its base {table.base} is not loaded and sealed")
        async with redis_errors(f"seal ID table {table.name}"):
            status, *detail = await self._seal(
                [keys.id_tables(), keys.id_tables_loaded(), keys.id_tables_sealed()],
                [table.name.encode(), _description(table), str(table.rows).encode()],
            )
        if status == b"description":
            raise _other_shape(table, detail[0])
        if status == b"rows":
            raise Conflict(f"ID table {table.name} holds {int(detail[0])} rows, must hold {table.rows}")

    async def id_table_ready(self, table: IdTable) -> bool:
        """Whether the table is sealed, and its base. Conflict where a name belongs to another shape."""
        if table.base is not None and not await self._base_ready(table):
            return False
        what = f"read ID table {table.name}"
        async with redis_errors(what), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hget(keys.id_tables(), table.name)
            pipeline.sismember(keys.id_tables_sealed(), table.name)
            description, sealed = await pipeline.execute()
        if description is not None and description != _description(table):
            raise _other_shape(table, description)
        return bool(sealed)

    async def _base_ready(self, overlay: IdTable) -> bool:
        """Whether an overlay's base is sealed; Conflict where it is an overlay itself or of another shape."""
        base = cast(str, overlay.base)
        what = f"read ID table {base}"
        async with redis_errors(what), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hget(keys.id_tables(), base)
            pipeline.sismember(keys.id_tables_sealed(), base)
            description, sealed = await pipeline.execute()
        if description is not None:
            rows = json.loads(description).get("rows")
            if description != _description(IdTable(base, overlay.codec, overlay.dim, rows)):
                raise Conflict(f"ID table {overlay.name} cannot lie over {base}: {_text(description)}")
        return bool(sealed)


def _check_layout(space: Space) -> None:
    if space.buckets != 0:
        raise UnknownVersion(f"space {space.id}, buckets", space.buckets, 0)


def _description(table: IdTable) -> bytes:
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
    return Conflict(f"ID table {table.name} is {_description(table).decode()}, stored is {_text(stored)}")


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def _text(value: bytes | None) -> str:
    return "nothing" if value is None else value.decode(errors="replace")
