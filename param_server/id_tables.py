"""The ID tables of a server: their descriptions, and how far each is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from contracts.errors import InvalidInput, NotFound
from contracts.manifest import IdTable
from param_server import keys
from param_server.connection import redis_errors
from param_server.hget import hget_each
from param_server.server import Server


@dataclass(frozen=True)
class IdTableState:
    """loaded: rows that are there now; sealed: whether the table is final."""

    table: IdTable
    loaded: int
    sealed: bool


async def id_tables(redis: Server) -> list[IdTableState]:
    """All ID tables, by name. Raises Unavailable, InvalidInput (a description that cannot be read)."""
    async with redis_errors("list ID tables"):
        sealed = await cast(Any, redis.smembers(cast(str, keys.id_tables_sealed())))
        described = await cast(Any, redis.hgetall(cast(str, keys.id_tables())))
    states = []
    for name, description in sorted(described.items()):
        table = _parse(name.decode(), description)
        family = keys.id_rows(table.name, table.rows)
        async with redis_errors(f"count ID table {table.name}"):
            loaded = await hget_each(redis, family.shard_keys, b"loaded")
        states.append(IdTableState(table, sum(int(count or 0) for count in loaded), name in sealed))
    return states


async def id_table(redis: Server, name: str) -> IdTable:
    """The table of a name; NotFound."""
    async with redis_errors(f"read ID table {name}"):
        description = await cast(Any, redis.hget(cast(str, keys.id_tables()), name))
    if description is None:
        raise NotFound("ID table", name)
    return _parse(name, description)


def _parse(name: str, description: bytes) -> IdTable:
    try:
        document = json.loads(description)
        base = document.get("base")
        return IdTable(
            name,
            int(document["codec"]),
            int(document["dim"]),
            int(document["rows"]),
            None if base is None else str(base),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"description of ID table {name}", description, "cannot be read") from error
