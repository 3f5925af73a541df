"""How much memory a catalogue will take: predicted from the layout, and checked against a server.

What a server counts as used: rows, keys and their tables. Beside it come its own megabyte, the buffers of
clients, the copy on write of a save or rewrite, and what an allocator cannot give back (its fragmentation
ratio): leave a third free.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from contracts.codec import CONTENT_INT8, ID_INT8, id_row_dtype, record_dtype
from contracts.errors import InvalidInput
from contracts.items import MAX_ID_BYTES
from contracts.space import MAX_BUCKETS, SHARDS, buckets_for
from param_server import keys
from param_server.memory_model import ServerKind, listpack, listpack_entry, poisson

_USER_KEY = len(keys.user(b"u")[1])
_RECORD_SHARD = (("header", 32), ("live", 4), ("high_water", 8))
_ID_SHARD = (("description", 50), ("loaded", 4), ("state", 16))


@dataclass(frozen=True)
class Catalogue:
    """What is to be stored. dims: of the modalities; attributes: slots; id_dim: of ID rows of items and
    users, 0: none; behaviours: kept of each user on average; cached: rows in a process's cache."""

    items: int
    dims: tuple[int, ...] = (128, 128, 128)
    attributes: int = 0
    codec: int = CONTENT_INT8
    id_bytes: int = 12
    id_dim: int = 0
    id_codec: int = ID_INT8
    user_rows: int = 0
    users: int = 0
    user_id_bytes: int = 12
    behaviours: int = 0
    cached: int = 0
    buckets: int = 0  # 0: buckets_for(items)

    def __post_init__(self) -> None:
        for name in ("items", "user_rows", "users", "behaviours", "cached", "id_dim", "attributes"):
            if getattr(self, name) < 0:
                raise InvalidInput(name, getattr(self, name), "must not be negative")
        for name in ("id_bytes", "user_id_bytes"):
            if not 1 <= getattr(self, name) <= MAX_ID_BYTES:
                raise InvalidInput(name, getattr(self, name), f"must be 1 to {MAX_ID_BYTES}")
        if not 0 <= self.buckets <= MAX_BUCKETS:
            raise InvalidInput("buckets", self.buckets, f"must be 0 to {MAX_BUCKETS}")

    @property
    def record_bytes(self) -> int:
        return record_dtype(self.dims, self.attributes, self.codec).itemsize

    @property
    def id_row_bytes(self) -> int:
        return id_row_dtype(self.id_codec, self.id_dim).itemsize if self.id_dim else 0


@dataclass(frozen=True)
class Part:
    """One table. payload: bytes of a row alone; each: bytes of a row with all it costs; total: of all."""

    name: str
    rows: int
    payload: int
    each: float
    total: int


@dataclass(frozen=True)
class Plan:
    """server: what the parts lie on, or `process`; total: bytes of all parts."""

    server: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {"server": self.server, "total": self.total, "parts": [asdict(part) for part in self.parts]}


def plan(catalogue: Catalogue, kind: ServerKind) -> Plan:
    """What a server of this kind will count as used for a catalogue."""
    parts = []
    count = catalogue.items
    if count:
        buckets = catalogue.buckets or buckets_for(count)
        sizes = (catalogue.record_bytes, catalogue.id_bytes)
        parts.append(("records", count, *sizes, _table(kind, count, buckets, *sizes, _RECORD_SHARD)))
    for name, rows, id_bytes in (
        ("ID rows of items", count, catalogue.id_bytes),
        ("ID rows of users", catalogue.user_rows, catalogue.user_id_bytes),
    ):
        if rows and catalogue.id_dim:
            sizes = (catalogue.id_row_bytes, id_bytes)
            parts.append((name, rows, *sizes, _table(kind, rows, buckets_for(rows), *sizes, _ID_SHARD)))
    if catalogue.users and catalogue.behaviours:
        size = 12 + (17 + catalogue.id_bytes) * catalogue.behaviours
        shards = min(SHARDS, catalogue.users)
        value = kind.allocated(listpack(6, 4, np.array([2])))
        fixed = shards * int(kind.key(len(keys.user_shard(0)), value)[0])
        total = catalogue.users * kind.text(_USER_KEY, size) + fixed
        parts.append(("behaviours", catalogue.users, size, 0, float(total)))
    # The keys of all tables lie in one table of the server: its slots are shared out by keys.
    found = [_keys(catalogue, name) for name, *_ in parts]
    slots = kind.slots(sum(found))
    every = sum(found) or 1.0
    return Plan(
        f"{kind.name} ({kind.allocator})",
        tuple(
            Part(name, rows, payload, (total + slots * n / every) / rows, round(total + slots * n / every))
            for (name, rows, payload, _, total), n in zip(parts, found, strict=True)
        ),
    )


def _table(
    kind: ServerKind,
    rows: int,
    buckets: int,
    row_bytes: int,
    id_bytes: int,
    shard: tuple[tuple[str, int], ...],
) -> float:
    """Buckets with Poisson many rows each, and the shards' own keys."""
    entries, shares = poisson(rows / buckets)
    key_bytes = keys.records("0" * 16, SHARDS).key_bytes
    each = kind.key(key_bytes, listpack(id_bytes, row_bytes, entries))
    each = np.where(entries > 0, each, 0)
    pack_bytes = 7 + sum(listpack_entry(len(name)) + listpack_entry(size) for name, size in shard)
    own = int(kind.key(key_bytes - len(b":0000"), pack_bytes))
    return float((each * shares).sum()) * buckets + own * min(SHARDS, buckets)


def _keys(catalogue: Catalogue, name: str) -> float:
    """How many keys a part has."""
    if name == "behaviours":
        return catalogue.users + min(SHARDS, catalogue.users)
    rows = catalogue.user_rows if name.endswith("users") else catalogue.items
    buckets = buckets_for(rows)
    if name == "records":
        buckets = catalogue.buckets or buckets
    return float(buckets * (1 - np.exp(-rows / buckets)) + min(SHARDS, buckets))
