"""`repcenter bench table`: memory, cold reads and loads of the tables, beside a bare MGET and Feast."""

from __future__ import annotations

import asyncio
import json as json_module
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from redis.asyncio import Redis

from contracts.codec import Rows, encode_records
from contracts.errors import InvalidInput
from contracts.space import Modality, Space, buckets_for
from param_server.bench_server import servers, serving
from param_server.connection import connect
from param_server.feast_process import Feast, with_feast
from param_server.record_file import RecordFiles, RecordFileWriter
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.table_load import load_records

DIM = 128
COUNTS = (164, 1_064)  # ids of a request: 100 candidates or 1,000, and 64 behaviours
LEAST_ITEMS = 2_000
_FEAST_ROUNDS = 30
_WARM = 5
_CHUNK = 65_536
_SETTINGS = StoreSettings(socket_timeout_s=20.0)  # a machine may be busy with other things

Case = dict[str, Any]


def run(
    *,
    json: bool = False,
    items: int = 200_000,
    growth: Sequence[int] = (),
    rounds: int = 1_000,
    feast: Path | None = None,
    rows_per_bucket: Sequence[int] = (),
) -> dict[str, Any]:
    """Measure on every server that is installed; print and return all. The last line printed is the result.

    items: random 12-character ids, 2 x 128 and 3 x 128; growth: further counts of items, 2 x 128; rounds:
    reads of 164 ids of each kind, interleaved, in proportion fewer of 1,064; feast: directory of Feast's
    environment, made where absent, None leaves Feast out; rows_per_bucket: other layouts to compare, 2 x 128.
    The servers sync every write (appendfsync always). InvalidInput for less than LEAST_ITEMS.
    """
    for count in (items, *growth):
        if count < LEAST_ITEMS:
            raise InvalidInput("items", count, f"must be at least {LEAST_ITEMS}")
    cases: list[Case] = []
    for server, binary in servers().items():
        sizes = [
            (items, 2, 0),
            (items, 3, 0),
            *((n, 2, 0) for n in growth),
            *((items, 2, r) for r in rows_per_bucket),
        ]
        for count, modalities, rows in sizes:
            with tempfile.TemporaryDirectory() as scratch:
                beside = None if cases else feast
                case = asyncio.run(_case(Path(scratch), binary, count, modalities, rows, rounds, beside))
                case["server"] = server
                if not cases:
                    case["load_everysec_records_per_s"] = asyncio.run(_load(Path(scratch), binary))
            cases.append(case)
            if not json:
                print(_line(case))
    result = {**_keys(cases), "cases": cases}
    print(json_module.dumps(result if json else _keys(cases)))
    return result


def _keys(cases: Sequence[Case]) -> dict[str, Any]:
    """What the last line says: of 2 x 128 on the first server, memory of both."""
    first = cases[0]
    redis = [case for case in cases if case["server"].startswith("redis 7") and case["modalities"] == 2]
    valkey = first if first["server"].startswith("valkey") else None
    return {
        "items": first["items"],
        "payload_bytes": first["payload_bytes"],
        "memory_ratio_valkey": valkey and valkey["memory_ratio"],
        "memory_ratio_redis7": redis[0]["memory_ratio"] if redis else None,
        "cold_164_p50_ms": first["cold_164_p50_ms"],
        "cold_164_p99_ms": first["cold_164_p99_ms"],
        "mget_164_p50_ms": first["mget_164_p50_ms"],
        "cold_ratio": first["cold_164_ratio"],
        "cached_164_p50_us": None,
        "cold_1064_p50_ms": first["cold_1064_p50_ms"],
        "load_records_per_s": first["load_records_per_s"],
        "feast_164_p50_ms": first.get("feast_164_p50_ms"),
        "feast_1064_p50_ms": first.get("feast_1064_p50_ms"),
    }


def _line(case: Case) -> str:
    return (
        f"{case['server']:14} {case['items']:>9,} items {case['modalities']} x {DIM} "
        f"{case['rows_per_bucket']:5.1f} rows per bucket "
        f"{case['item_bytes']:6.1f} bytes ({case['memory_ratio']:.3f}) "
        + " ".join(
            f"{n}: {case[f'cold_{n}_p50_ms']:.2f} ms ({case[f'cold_{n}_ratio']:.2f} x MGET)" for n in COUNTS
        )
        + f" load {case['load_records_per_s']:,.0f}/s"
    )


async def _case(
    folder: Path, binary: Path, items: int, modalities: int, rows: int, rounds: int, feast: Path | None
) -> Case:
    space = _space(items, modalities, rows)
    ids, records = _draw(space, items)
    file = folder / "rows.parquet"
    with RecordFileWriter(file, space) as writer:
        for at in range(0, items, _CHUNK):
            writer.write(ids[at : at + _CHUNK], records[at : at + _CHUNK])
    with serving(folder, binary) as (url, _):
        redis = connect(url, _SETTINGS)
        try:
            await Store(redis).create_space(space)
            before = await _memory(redis)
            loaded = await load_records(redis, RecordFiles.open(file))
            item_bytes = (await _memory(redis) - before) / items
            payload = modalities * (DIM + 4)
            case: Case = {
                "items": items,
                "modalities": modalities,
                "rows_per_bucket": items / space.buckets,
                "payload_bytes": payload,
                "record_bytes": space.dtype.itemsize,
                "item_bytes": item_bytes,
                "memory_ratio": item_bytes / payload,
                "load_records_per_s": loaded.records_per_s,
            }
            case |= await _strings(redis, ids, records)
            for count in COUNTS:
                few = max(1, rounds * COUNTS[0] // count)
                case |= await _reads(redis, space, ids, records, count, few, None)
            if feast is not None:

                async def beside(other: Feast) -> Case:
                    found: Case = {"feast_load_records_per_s": other.load_records_per_s}
                    for count in COUNTS:
                        found |= await _reads(redis, space, ids, records, count, _FEAST_ROUNDS, other)
                    return found

                found, case["feast"] = await with_feast(feast, file, binary, beside)
                case |= found or {}
        finally:
            await redis.aclose()
    return case


async def _load(folder: Path, binary: Path) -> float:
    """Records per second of the file in `folder` on a server that syncs once a second."""
    with serving(folder, binary, "--appendfsync", "everysec") as (url, _):
        redis = connect(url, _SETTINGS)
        try:
            loaded = await load_records(redis, RecordFiles.open(folder / "rows.parquet"))
        finally:
            await redis.aclose()
    return loaded.records_per_s


def _space(items: int, modalities: int, rows: int) -> Space:
    return Space(
        uuid.uuid4().hex * 2,
        tuple(Modality(name, DIM) for name in ("text", "image", "fused")[:modalities]),
        buckets=max(1, items // rows) if rows else buckets_for(items),
    )


def _draw(space: Space, items: int) -> tuple[list[str], Rows]:
    """Random 12-character ids, all distinct, and unit vectors of random directions."""
    generator = np.random.default_rng(0)
    numbers = np.unique(generator.integers(0, 1 << 48, items + items // 100 + 10))
    numbers = generator.permutation(numbers)[:items]
    ids = [f"{n:012x}" for n in numbers.tolist()]
    parts = []
    for at in range(0, items, 1 << 16):
        some = min(1 << 16, items - at)
        vectors = [generator.standard_normal((some, dim), dtype=np.float32) for dim in space.dims]
        sequences = np.arange(at + 1, at + some + 1, dtype=np.uint64)
        parts.append(encode_records(vectors, sequences, np.zeros((some, 0), np.uint32)))
    return ids, np.concatenate(parts)


async def _memory(redis: Redis) -> int:
    """used_memory without what belongs to connections and to the append-only file."""
    await redis.connection_pool.disconnect()
    memory = await redis.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_clients_normal"]) - int(memory["mem_aof_buffer"])


async def _strings(redis: Redis, ids: Sequence[str], records: Rows) -> Case:
    """The same bytes under one string key per item, for MGET, with the key's prefix of the layout before."""
    size, blob, before = records.dtype.itemsize, records.tobytes(), await _memory(redis)
    for at in range(0, len(ids), 10_000):
        chunk = range(at, min(at + 10_000, len(ids)))
        await redis.mset({_key(ids[i]): blob[i * size : (i + 1) * size] for i in chunk})
    return {"string_item_bytes": (await _memory(redis) - before) / len(ids)}


def _key(item_id: str) -> str:
    return f"rc1:r:{0:016x}:{item_id}"


async def _reads(
    redis: Redis,
    space: Space,
    ids: Sequence[str],
    records: Rows,
    count: int,
    rounds: int,
    feast: Feast | None,
) -> Case:
    """A cold fetch and a bare MGET of the same ids, in turn, the first to go changing; in each turn also as
    many rows through `feast`, if given."""
    store, generator = Store(redis), np.random.default_rng(count)
    taken: dict[str, list[float]] = {"cold": [], "mget": [], "feast": []}
    for turn in range(rounds + _WARM):
        places = generator.choice(len(ids), count, replace=False)
        asked = [ids[i] for i in places.tolist()]
        names = [_key(item_id) for item_id in asked]
        for kind in ("cold", "mget") if turn % 2 else ("mget", "cold"):
            began = time.perf_counter()
            if kind == "cold":
                got = await store.fetch(space, None, asked)
            else:
                await redis.mget(names)
            taken[kind].append(time.perf_counter() - began)
        if feast is not None:
            taken["feast"].append(feast.read(count))
        if not np.array_equal(got.records, records[places]):
            raise AssertionError("the table gave other bytes than it was given")
    cold, mget, other = (np.array(taken[kind][_WARM:]) * 1e3 for kind in taken)
    if feast is not None:
        return {
            f"feast_{count}_p50_ms": float(np.median(other)),
            f"feast_{count}_ratio": float(np.median(other) / np.median(cold)),
            f"feast_{count}_p10_ratio": float(np.quantile(other, 0.1) / np.quantile(cold, 0.1)),
        }
    case = {
        f"{kind}_{count}_p{q}_ms": float(np.percentile(times, q))
        for kind, times in (("cold", cold), ("mget", mget))
        for q in (10, 50, 99)
    }
    case[f"cold_{count}_ratio"] = case[f"cold_{count}_p50_ms"] / case[f"mget_{count}_p50_ms"]
    # On a machine that is busy with other things a median is mostly waiting; the fastest tenth is not.
    case[f"cold_{count}_p10_ratio"] = case[f"cold_{count}_p10_ms"] / case[f"mget_{count}_p10_ms"]
    return case
