"""What lies on a table server: spaces, ID tables, how large a row is there, and the server's memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from redis.asyncio import Redis

from contracts.codec import is_tombstone
from contracts.guard import flagged
from contracts.space import Space
from param_server import keys
from param_server.cluster import Cluster
from param_server.commands import Commands, pack, slots_of
from param_server.connection import redis_errors
from param_server.hget import hget_each
from param_server.id_tables import IdTableState, id_tables
from param_server.round_trip import raise_error
from param_server.rows import join_records
from param_server.scan import scan
from param_server.server import Server, primaries, send
from param_server.store import Store

_SAMPLED = 128  # buckets


@dataclass(frozen=True)
class ServerState:
    """As INFO tells it of one server, or of one primary of a cluster. evicts: whether it may drop rows by
    itself; slots: that it has, of a cluster."""

    address: str
    version: str
    allocator: str
    used_memory: int
    maxmemory: int
    policy: str
    evicts: bool
    append_only: bool
    slots: int | None = None


@dataclass(frozen=True)
class Memory:
    """Of one table, from a sample of its buckets: rows per bucket; bytes per row with all that its bucket
    costs; packed: share of the buckets that are one block."""

    rows_per_bucket: float
    bytes_per_row: float
    packed: float


@dataclass(frozen=True)
class Contents:
    """Of every record of a space. missing, flagged: live records, by modality."""

    live: int
    deleted: int
    missing: dict[str, int]
    flagged: dict[str, int]


@dataclass(frozen=True)
class SpaceState:
    """live: records; high_water: the newest sequence; contents: None where not asked for; live_by_server:
    in the order of TablesState.servers."""

    space: Space
    live: int
    live_by_server: list[int]
    high_water: int
    memory: Memory
    contents: Contents | None


@dataclass(frozen=True)
class TablesState:
    """servers: one, or each primary of a cluster; id_memory: of the ID tables, in the same order."""

    servers: list[ServerState]
    spaces: list[SpaceState]
    id_tables: list[IdTableState]
    id_memory: list[Memory]


async def inspect_tables(redis: Server, *, scanned: bool = False) -> TablesState:
    """Everything; scanned: read every record too. Raises Unavailable, UnknownVersion, BrokenRow."""
    store, servers = Store(redis), await server_states(redis)
    spaces = []
    for space in await store.spaces():
        family = keys.records(space.id, space.buckets)
        async with redis_errors(f"read space {space.id}"):
            waters = await hget_each(redis, family.shard_keys, b"high_water")
            live = [int(value or 0) for value in await hget_each(redis, family.shard_keys, b"live")]
        water = max(int.from_bytes(value or b"", "little") for value in waters)
        contents = await _contents(redis, space) if scanned else None
        memory = await _memory(redis, family)
        by_server = _by_server(redis, servers, family, live)
        spaces.append(SpaceState(space, sum(live), by_server, water, memory, contents))
    tables = await id_tables(redis)
    id_memory = [await _memory(redis, keys.id_rows(s.table.name, s.table.rows)) for s in tables]
    return TablesState(servers, spaces, tables, id_memory)


def _by_server(
    redis: Server, servers: Sequence[ServerState], family: keys.Family, live: Sequence[int]
) -> list[int]:
    """What the shards count, summed by the server that each is on."""
    if not isinstance(redis, Cluster):
        return [sum(live)]
    found = dict.fromkeys((state.address for state in servers), 0)
    for slot, count in zip(family.slots.tolist(), live, strict=True):
        owner = redis.slots.owner(slot)
        address = f"{owner[0]}:{owner[1]}" if owner else ""
        found[address] = found.get(address, 0) + count
    return [found[state.address] for state in servers]


async def server_states(redis: Server) -> list[ServerState]:
    """The server as a whole, or each primary of a cluster."""
    async with redis_errors("read the server's state"):
        states = [await _server_state(address, one) for address, one in (await primaries(redis)).items()]
    if not isinstance(redis, Cluster):
        return states
    slots = {f"{host}:{port}": held for (host, port), held in redis.slots.slots_of_primaries().items()}
    return [replace(state, slots=slots.get(state.address, 0)) for state in states]


async def _server_state(address: str, redis: Redis) -> ServerState:
    info: dict[str, Any] = {}
    for section in ("server", "memory", "persistence"):
        info |= await redis.info(section)
    name, version = "Redis", info.get("redis_version")
    if "valkey_version" in info:
        name, version = "Valkey", info["valkey_version"]
    policy = str(info.get("maxmemory_policy", "unknown"))
    return ServerState(
        address=address,
        version=f"{name} {version}",
        allocator=str(info.get("mem_allocator", "unknown")),
        used_memory=int(info.get("used_memory", 0)),
        maxmemory=int(info.get("maxmemory", 0)),
        policy=policy,
        evicts=policy.startswith("allkeys-"),
        append_only=bool(info.get("aof_enabled", 0)),
    )


async def _memory(redis: Server, family: keys.Family) -> Memory:
    numbers = np.random.default_rng(0).permutation(family.buckets)[:_SAMPLED]
    names = family.keys(numbers)
    calls = []
    for key in names:
        calls += [
            pack([b"HLEN", key]),
            pack([b"MEMORY", b"USAGE", key, b"SAMPLES", b"0"]),
            pack([b"OBJECT", b"ENCODING", key]),
        ]
    async with redis_errors("measure a table"):
        replies = (await send(redis, Commands(calls, np.repeat(slots_of(names), 3)))).values
        raise_error(replies)
    rows = sum(replies[0::3])
    there = sum(usage is not None for usage in replies[1::3])
    used = sum(usage or 0 for usage in replies[1::3])
    packed = sum(encoding in (b"listpack", b"ziplist") for encoding in replies[2::3])
    return Memory(rows / len(names), used / rows if rows else 0.0, packed / there if there else 1.0)


async def _contents(redis: Server, space: Space) -> Contents:
    names = [m.name for m in space.modalities]
    live = dead = 0
    missing, marked = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    async with aclosing(scan(redis, keys.records(space.id, space.buckets))) as parts:
        async for part in parts:
            ids = [item_id.decode(errors="replace") for item_id in part.ids]
            rows, found = join_records(part.values, space.dtype, ids, f"space {space.id}")
            stored = rows[found]
            assert not is_tombstone(stored).any()
            live, dead = live + len(stored), dead + len(rows) - len(stored)
            for m, name in enumerate(names):
                missing[name] += int(((stored["flags"] >> m) & 1).sum())
            for name, count in flagged(stored, names).items():
                marked[name] += count
    return Contents(live, dead, missing, marked)
