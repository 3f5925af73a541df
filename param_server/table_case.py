"""One case of `repcenter bench table`: a table of so many items on one server; its bytes, load and reads."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis

from contracts.codec import Rows, encode_records
from contracts.space import Modality, Space, buckets_for
from param_server.bench_server import serving
from param_server.cache_bench import cached_reads
from param_server.connection import connect_one
from param_server.feast_process import Feast, with_feast
from param_server.record_file import RecordFiles, RecordFileWriter
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.table_load import LoadReport, load_records
from param_server.turns import Reader, Sample, Times, in_turn

DIM = 128
COUNTS = (164, 1_064)  # ids of a request: 100 candidates or 1,000, and 64 behaviours
_SETTINGS = StoreSettings(socket_timeout_s=20.0)  # a machine may be busy with other things
_CHUNK = 65_536
_WARM = 5
_FEAST_TURNS, _FEAST_BLOCK, _FEAST_SINGLES = 6, 20, 30

Measured = dict[str, Any]
Say = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True)
class Case:
    """items: with random 12-character ids; rows_per_bucket: 0 = what the items' own count gives."""

    server: str
    items: int
    modalities: int
    rows_per_bucket: int = 0

    @property
    def name(self) -> str:
        layout = f", {self.rows_per_bucket} rows per bucket" if self.rows_per_bucket else ""
        return f"{self.server}, {self.items:,} items {self.modalities} x {DIM}{layout}"

    def space(self) -> Space:
        """A space that no other case has."""
        buckets = max(1, self.items // self.rows_per_bucket) if self.rows_per_bucket else None
        return Space(
            uuid.uuid4().hex * 2,
            tuple(Modality(name, DIM) for name in ("text", "image", "fused")[: self.modalities]),
            buckets=buckets or buckets_for(self.items),
        )


async def measure(
    case: Case, binary: Path, folder: Path, rounds: int, feast: Path | None, headline: bool, say: Say
) -> Measured:
    """All figures of a case.

    folder: scratch; rounds: reads of 164 ids, fewer of more; feast: its environment; headline: also cached
    reads, and the load with appendfsync everysec.
    """
    space = case.space()
    say("drawing vectors", 0, 1)
    ids, records = draw(space, case.items)
    file = folder / "rows.parquet"
    with RecordFileWriter(file, space) as writer:
        for at in range(0, case.items, _CHUNK):
            writer.write(ids[at : at + _CHUNK], records[at : at + _CHUNK])
    with serving(folder, binary) as (url, _):
        redis = connect_one(url, _SETTINGS)
        try:
            await Store(redis).create_space(space)
            before = await _memory(redis)
            loaded = await _load(redis, file, say)
            item_bytes = (await _memory(redis) - before) / case.items
            payload = case.modalities * (DIM + 4)
            found: Measured = {
                "server": case.server,
                "items": case.items,
                "modalities": case.modalities,
                "rows_per_bucket": case.items / space.buckets,
                "payload_bytes": payload,
                "record_bytes": space.dtype.itemsize,
                "item_bytes": item_bytes,
                "memory_ratio": item_bytes / payload,
                "load_records_per_s": loaded.records_per_s,
            }
            say("loading strings for MGET", 0, 1)
            found["string_item_bytes"] = await _strings(redis, ids, records)
            readers = _readers(redis, space, ids, records)
            for count in COUNTS:
                say(f"reading {count} ids", 0, 1)
                turns = max(2, rounds * COUNTS[0] // count)
                await in_turn(readers, case.items, count, _WARM)
                found |= _figures(count, await in_turn(readers, case.items, count, turns))
            if headline:
                say("reading cached ids", 0, 1)
                found |= await cached_reads(redis, space, ids, records, COUNTS, rounds)
            if feast is not None:
                say("Feast: installing, loading", 0, 1)

                async def beside(other: Feast) -> Measured:
                    return await _beside_feast(other, readers, case.items, say)

                there, found["feast"] = await with_feast(feast, file, binary, beside)
                found |= there or {}
        finally:
            await redis.aclose()
    if headline:
        with serving(folder, binary, "--appendfsync", "everysec") as (url, _):
            redis = connect_one(url, _SETTINGS)
            try:
                found["load_everysec_records_per_s"] = (await _load(redis, file, say)).records_per_s
            finally:
                await redis.aclose()
    return found


async def _load(redis: Redis, file: Path, say: Say) -> LoadReport:
    return await load_records(
        redis, RecordFiles.open(file), progress=lambda report, rows: say("loading", report.rows, rows)
    )


def draw(space: Space, items: int) -> tuple[list[str], Rows]:
    """Random 12-character ids, all distinct, and unit vectors of random directions."""
    generator = np.random.default_rng(0)
    numbers = np.unique(generator.integers(0, 1 << 48, items + items // 100 + 10))
    numbers = generator.permutation(numbers)[:items]
    ids = [f"{n:012x}" for n in numbers.tolist()]
    parts = []
    for at in range(0, items, _CHUNK):
        some = min(_CHUNK, items - at)
        vectors = [generator.standard_normal((some, dim), dtype=np.float32) for dim in space.dims]
        sequences = np.arange(at + 1, at + some + 1, dtype=np.uint64)
        parts.append(encode_records(vectors, sequences, np.zeros((some, 0), np.uint32)))
    return ids, np.concatenate(parts)


async def _memory(redis: Redis) -> int:
    """used_memory without what belongs to connections and to the append-only file."""
    await redis.connection_pool.disconnect()
    memory = await redis.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_clients_normal"]) - int(memory["mem_aof_buffer"])


async def _strings(redis: Redis, ids: Sequence[str], records: Rows) -> float:
    """The same bytes under one string key per item, for MGET, with the key's prefix of the layout before ->
    bytes per item."""
    size, before = records.dtype.itemsize, await _memory(redis)
    for at in range(0, len(ids), 10_000):
        blob = records[at : at + 10_000].tobytes()
        names = [_key(item_id) for item_id in ids[at : at + 10_000]]
        await redis.mset({name: blob[i * size : (i + 1) * size] for i, name in enumerate(names)})
    return (await _memory(redis) - before) / len(ids)


def _key(item_id: str) -> str:
    return f"rc1:r:{0:016x}:{item_id}"


def _readers(redis: Redis, space: Space, ids: Sequence[str], records: Rows) -> dict[str, Reader]:
    """A cold fetch, checked and as one array, and a bare MGET of the same bytes."""
    store = Store(redis)

    async def cold(places: Sequence[npt.NDArray[np.int64]]) -> list[Sample]:
        taken = []
        for chosen in places:
            asked = [ids[i] for i in chosen.tolist()]
            clock, cpu = time.perf_counter(), time.process_time()
            got = await store.fetch(space, None, asked)
            taken.append((time.perf_counter() - clock, time.process_time() - cpu))
            if not np.array_equal(got.records, records[chosen]):
                raise AssertionError("the table gave other bytes than it was given")
        return taken

    async def mget(places: Sequence[npt.NDArray[np.int64]]) -> list[Sample]:
        taken = []
        for chosen in places:
            names = [_key(ids[i]) for i in chosen.tolist()]
            clock, cpu = time.perf_counter(), time.process_time()
            await redis.mget(names)
            taken.append((time.perf_counter() - clock, time.process_time() - cpu))
        return taken

    return {"cold": cold, "mget": mget}


def _figures(count: int, times: dict[str, Times]) -> Measured:
    cold, mget = times["cold"], times["mget"]
    found: Measured = {
        f"{name}_{count}_p{q}_ms": time.ms(q) for name, time in times.items() for q in (10, 50, 99)
    }
    found |= {f"{name}_{count}_cpu_ms": time.cpu_ms for name, time in times.items()}
    found[f"cold_{count}_ratio"] = cold.ms(50) / mget.ms(50)
    # On a machine that is busy with other things a median is mostly waiting; the fastest tenth is not.
    found[f"cold_{count}_p10_ratio"] = cold.ms(10) / mget.ms(10)
    return found


async def _beside_feast(feast: Feast, readers: dict[str, Reader], items: int, say: Say) -> Measured:
    """Feast alone; in turn by blocks, in which everybody is warm; in turn one by one, in which nobody is."""
    found: Measured = {"feast_load_records_per_s": feast.load_records_per_s}
    for count in COUNTS:
        say(f"Feast: reading {count} ids", 0, 1)

        async def read(places: Sequence[npt.NDArray[np.int64]]) -> list[Sample]:
            return await feast.read([len(chosen) for chosen in places])

        for way in ("dict", "response", "async"):
            alone = (await feast.read([count] * _FEAST_BLOCK * 2, way))[_WARM:]
            key = f"feast_{count}_alone" if way == "dict" else f"feast_{count}_{way}_alone"
            found[f"{key}_p50_ms"] = float(np.median([clock for clock, _ in alone])) * 1e3
        everybody = {**readers, "feast": read}
        blocks = await in_turn(everybody, items, count, _FEAST_TURNS, _FEAST_BLOCK, _WARM)
        singles = await in_turn(everybody, items, count, _FEAST_SINGLES)
        found[f"feast_{count}_p50_ms"] = blocks["feast"].ms(50)
        found[f"feast_{count}_cpu_ms"] = blocks["feast"].cpu_ms
        found[f"cold_beside_feast_{count}_p50_ms"] = blocks["cold"].ms(50)
        found[f"feast_{count}_ratio"] = blocks["feast"].ms(50) / blocks["cold"].ms(50)
        found[f"feast_{count}_cpu_ratio"] = blocks["feast"].cpu_ms / blocks["cold"].cpu_ms
        found[f"feast_{count}_singly_p50_ms"] = singles["feast"].ms(50)
        found[f"cold_beside_feast_{count}_singly_p50_ms"] = singles["cold"].ms(50)
        found[f"feast_{count}_singly_ratio"] = singles["feast"].ms(50) / singles["cold"].ms(50)
    return found
