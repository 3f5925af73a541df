"""The planner against a real server: a bounded sample is loaded, compared with what the server counts, and
taken out again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from contracts.codec import RECORD_VERSION, encode_id_rows
from contracts.errors import InvalidInput
from contracts.items import AttributeField
from contracts.manifest import IdTable
from contracts.space import Modality, Space, buckets_for
from contracts.window import Window
from param_server import keys
from param_server.behaviour_rows import pack
from param_server.behaviours import Behaviours
from param_server.connection import redis_errors
from param_server.memory_model import ServerKind
from param_server.parts import Part
from param_server.planner import Catalogue, plan
from param_server.server import Server, ask, primaries
from param_server.store import Store

TOLERANCE = 0.05
SAMPLE = 60_000  # rows of each table that a check loads, at most
_SAMPLE_BEHAVIOURS = 400_000
_CHUNK = 4_096
_LOOKS, _LOOK_S, _QUIET_BYTES = 40, 0.11, 256  # a little more than a server's own beat
_SEQUENCE = 1  # never above a live one: a door counts on from the newest
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Check:
    """A prediction beside a measurement of the same sample on a server. error: relative, signed."""

    server: str
    sample: Catalogue
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def holds(self) -> bool:
        return abs(self.error) <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "sample": asdict(self.sample),
            "predicted": self.predicted,
            "measured": self.measured,
            "error": self.error,
            "holds": self.holds,
        }


def sample_of(catalogue: Catalogue, rows: int = SAMPLE) -> Catalogue:
    """A catalogue of the same shape with at most so many rows of each kind."""
    per_user = max(1, catalogue.behaviours)
    items = min(catalogue.items, rows)
    wanted = catalogue.buckets * items // max(1, catalogue.items) if catalogue.buckets else 0
    return replace(
        catalogue,
        items=items,
        user_rows=min(catalogue.user_rows, rows),
        users=min(catalogue.users, rows, max(1, _SAMPLE_BEHAVIOURS // per_user)),
        cached=0,
        buckets=max(1, wanted) if catalogue.buckets else 0,
    )


async def check(
    redis: Server, sample: Catalogue, progress: Callable[[int, int], None] | None = None
) -> Check:
    """Load a sample into a server, compare what it counts before and after, and take the sample out again.

    The server should have nothing else to do meanwhile. Raises Unavailable; InvalidInput for more than
    SAMPLE rows of a kind.
    """
    largest = max(sample.items, sample.user_rows, sample.users)
    if largest > SAMPLE:
        raise InvalidInput("sample", largest, f"must be at most {SAMPLE} rows")
    kind = await kind_of(redis)
    load, warm = _Load(redis, sample, progress or _silent), _Load(redis, _tiny(sample), _silent)
    try:
        await warm.run()  # scripts are compiled once, whatever is stored
        before = await _counted(redis)
        await load.run()
        measured = await _counted(redis) - before
    finally:
        await load.end()
        await warm.end()
    expected = plan(sample, kind)
    return Check(expected.server, sample, expected.total, measured)


async def kind_of(redis: Server) -> ServerKind:
    """What a running server says that it is."""
    async with redis_errors("ask a server what it is"):
        one = next(iter((await primaries(redis)).values()))
        info = {**await one.info("server"), **await one.info("memory")}
    allocator = str(info.get("mem_allocator", ""))
    name: Literal["valkey", "redis"] = "redis"
    if "valkey_version" in info or info.get("server_name") == "valkey":
        name = "valkey"
    return ServerKind(name, "jemalloc" if "jemalloc" in allocator else "libc")


async def _counted(redis: Server) -> int:
    """Bytes of all keys and of the table that finds them; without buffers, scripts and the server itself.

    Once it is at rest: a server grows and shrinks its table of keys bit by bit.
    """
    found, again = -1, 0
    for _ in range(_LOOKS):
        async with redis_errors("measure a server"):
            all_stats = [await node.memory_stats() for node in (await primaries(redis)).values()]
        last, found = found, 0
        for stats in all_stats:
            tables = [value for name, value in stats.items() if re.fullmatch(r"db\.\d+", str(name))]
            found += sum(int(_named(table, "overhead.hashtable.main")) for table in tables)
            found += int(stats["dataset.bytes"])
        again = again + 1 if abs(found - last) <= _QUIET_BYTES else 0
        if again == 3:
            break
        await asyncio.sleep(_LOOK_S)
    return found


def _named(table: Any, name: str) -> Any:
    pairs = table if isinstance(table, dict) else dict(zip(table[0::2], table[1::2], strict=True))
    return next(value for key, value in pairs.items() if key in (name, name.encode()))


def _silent(done: int, total: int) -> None:
    """Shows nothing."""


def _tiny(sample: Catalogue) -> Catalogue:
    return replace(
        sample,
        items=min(1, sample.items),
        user_rows=min(1, sample.user_rows),
        users=min(1, sample.users),
        buckets=1,
    )


class _Load:
    """A sample, written through the doors that real rows go through."""

    def __init__(self, redis: Server, sample: Catalogue, progress: Callable[[int, int], None]) -> None:
        self._redis, self._sample, self._progress = redis, sample, progress
        self._random = np.random.default_rng(time.time_ns())
        self._stamp = f"plan-memory {time.time_ns()}"
        fields = tuple(
            AttributeField(f"a{n}", "categorical", min(64, sample.attributes - n))
            for n in range(0, sample.attributes, 64)
        )
        modalities = tuple(Modality(f"m{m}", dim) for m, dim in enumerate(sample.dims))
        buckets = sample.buckets or buckets_for(max(1, sample.items))
        self._space = Space(self._stamp, modalities, fields, sample.codec, buckets=buckets)
        self._items = self._ids(sample.items, sample.id_bytes)
        self._users = self._ids(max(sample.user_rows, sample.users), sample.user_id_bytes)
        self._tables = [
            (IdTable(f"{self._stamp} {name}", sample.id_codec, sample.id_dim, len(ids)), ids)
            for name, ids in (("items", self._items), ("users", self._users[: sample.user_rows]))
            if ids and sample.id_dim
        ]
        self._written: list[bytes] = []

    def _ids(self, count: int, size: int) -> list[str]:
        """Distinct strings of letters, none of which a server would store as a number."""
        letters = np.frombuffer(_LETTERS, np.uint8)
        places = np.arange(count) + int(self._random.integers(1 << 20))
        columns = [letters[places // 52**n % 52 if 52**n < 1 << 40 else 0 * places] for n in range(size)]
        block = np.stack(columns, axis=1) if count else np.zeros((0, size), np.uint8)
        return [row.tobytes().decode() for row in block]

    async def run(self) -> None:
        """Load records, ID rows and behaviours."""
        store, sample = Store(self._redis), self._sample
        for name, size, count in (
            ("id_bytes", sample.id_bytes, len(self._items)),
            ("user_id_bytes", sample.user_id_bytes, len(self._users)),
        ):
            if len(_LETTERS) ** size < count:
                raise InvalidInput(name, size, f"are too few for {count} ids")
        total = sample.items + sum(len(ids) for _, ids in self._tables) + sample.users
        done = 0
        if self._items:
            await store.create_space(self._space)
        for start in range(0, len(self._items), _CHUNK):
            ids = self._items[start : start + _CHUNK]
            size = self._space.dtype.itemsize
            rows = np.frombuffer(self._random.bytes(size * len(ids)), self._space.dtype).copy()
            rows["version"], rows["codec"], rows["sequence"] = RECORD_VERSION, sample.codec, _SEQUENCE
            rows["flags"] = rows["guard"] = 0
            await store.commit_window(Window(self._space, ids, rows, 1))
            done += len(ids)
            self._progress(done, total)
        for table, ids in self._tables:
            for start in range(0, len(ids), _CHUNK):
                part = ids[start : start + _CHUNK]
                vectors = self._random.normal(size=(len(part), table.dim)).astype(np.float32)
                evidence = np.ones(len(part), np.float32)
                await store.load_id_rows(table, part, encode_id_rows(vectors, evidence, table.codec))
                done += len(part)
                self._progress(done, total)
            await store.seal_id_table(table)
        await self._behave(done, total)

    async def _behave(self, done: int, total: int) -> None:
        sample, count = self._sample, self._sample.behaviours
        if not sample.users or not count:
            return
        store = Behaviours(self._redis, count)
        item = (b"i" * sample.id_bytes).ljust(1)
        times = list(range(1, count + 1))
        users = [f"{self._stamp} {user}" for user in self._users[: sample.users]]
        self._written = [keys.user(user.encode())[1] for user in users]
        for start in range(0, len(users), 256):
            part = users[start : start + 256]
            packed = [pack(times, [self._random.bytes(8) for _ in times], [item] * count) for _ in part]
            await store.append_packed(part, packed)
            done += len(part)
            self._progress(done, total)

    async def end(self) -> None:
        """Take every key of the sample out again."""
        spaces = [self._space]
        families = [keys.records(space.id, space.buckets) for space in spaces]
        families += [keys.id_rows(table.name, table.rows) for table, _ in self._tables]
        names: list[bytes] = []
        for family in families:
            names += family.shard_keys + family.keys(np.arange(family.buckets))
        await self._forget()
        async with redis_errors("take a sample out"):
            for start in range(0, len(names), _CHUNK):
                await ask(self._redis, *((b"UNLINK", name) for name in names[start : start + _CHUNK]))
            await ask(self._redis, *((b"HDEL", keys.spaces(), space.id.encode()) for space in spaces))
            parts = [Part("space", space.id) for space in spaces]
            parts += [Part("id_table", table.name) for table, _ in self._tables]
            await ask(self._redis, *((b"HDEL", keys.used(), part.field) for part in parts))
            for table, _ in self._tables:
                name = table.name.encode()
                await ask(
                    self._redis,
                    (b"HDEL", keys.id_tables(), name),
                    (b"SREM", keys.id_tables_sealed(), name),
                )

    async def _forget(self) -> None:
        """The users of the sample, and their part of what the shards count."""
        of_shard: dict[bytes, list[bytes]] = {}
        for key in self._written:
            of_shard.setdefault(key[: len(keys.user_shard(0))], []).append(key)
        if not of_shard:
            return
        async with redis_errors("take a sample out"):
            gone = await ask(self._redis, *((b"UNLINK", *theirs) for theirs in of_shard.values()))
            for shard, count in zip(of_shard, gone, strict=True):
                less = b"%d" % (-count * self._sample.behaviours)
                await ask(
                    self._redis,
                    (b"HINCRBY", shard, b"users", b"%d" % -count),
                    (b"HINCRBY", shard, b"behaviours", less),
                )
