"""The planner against arithmetic done by hand, and within 5 % of real servers at several shapes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import CONTENT_FP16
from contracts.errors import InvalidInput
from param_server.behaviours import Behaviours, Count
from param_server.cache_plan import cache_bytes, check_cache, plan_cache
from param_server.connection import connect
from param_server.embedded import EmbeddedServer, find_binary
from param_server.memory_model import ServerKind, listpack, listpack_entry, poisson
from param_server.plan_check import SAMPLE, check, sample_of
from param_server.planner import Catalogue, plan
from param_server.settings import StoreSettings

JEMALLOC, LIBC = ServerKind("redis", "jemalloc"), ServerKind("valkey", "libc")
BINARIES = {"embedded": find_binary(), "redis": shutil.which("redis-server")}
SHAPES = {
    "two modalities": Catalogue(items=20_000, dims=(128, 128)),
    "three, attributes, long ids": Catalogue(items=8_000, attributes=7, id_bytes=36),
    "small records, ID rows of items and users": Catalogue(20_000, (8,), id_dim=16, user_rows=9_000),
    "behaviours": Catalogue(items=0, users=1_000, behaviours=200),
    "halves in crowded buckets": Catalogue(items=4_000, dims=(256,), codec=CONTENT_FP16, buckets=40),
}


@pytest.fixture(scope="module", params=[name for name, binary in BINARIES.items() if binary])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("planned")
    with EmbeddedServer.start(folder, binary=Path(str(BINARIES[request.param]))) as server:
        yield server.url


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_predictions_are_within_5_percent_of_a_server(url: str, shape: Catalogue) -> None:
    async with connect(url, StoreSettings(redis_url=url)) as redis:
        await redis.flushall()
        seen: list[tuple[int, int]] = []
        found = await check(redis, shape, lambda done, total: seen.append((done, total)))
        assert found.holds, found.to_json()
        assert abs(found.error) <= 0.05
        assert seen[-1][0] == seen[-1][1] > 0
        assert (await Behaviours(redis).count()) == Count(0, 0)
        assert not [key async for key in redis.scan_iter() if not key.startswith(b"rc2:u:")]


async def test_a_check_leaves_what_was_there(redis: Redis) -> None:
    await redis.set("mine", "value")
    await check(redis, Catalogue(items=100, dims=(8,), id_dim=4, users=5, behaviours=3))
    assert {key[:6] for key in await redis.keys()} == {b"mine", b"rc2:u:"}  # empty counts of users
    assert (await Behaviours(redis).count()) == Count(0, 0)
    with pytest.raises(InvalidInput, match="sample"):
        await check(redis, Catalogue(items=SAMPLE + 1))


def test_allocations_are_those_of_the_allocators() -> None:
    sizes = np.array([1, 8, 9, 16, 17, 24, 100, 129, 300, 1_025, 5_593])
    assert JEMALLOC.allocated(sizes).tolist() == [8, 8, 16, 16, 32, 32, 112, 160, 320, 1_280, 6_144]
    assert LIBC.allocated(sizes).tolist() == [24, 24, 24, 24, 24, 24, 104, 136, 312, 1_032, 5_608]
    assert JEMALLOC.allocated(0).tolist() == 0


def test_a_key_is_what_the_servers_say_of_one() -> None:
    packed = listpack(12, 276, np.array([19]))  # MEMORY USAGE of both: 5,664 and 6,232
    assert int(LIBC.key(32, packed)[0]) == 5_664
    assert int(JEMALLOC.key(32, packed)[0]) == 6_232 + 8  # the entry of 24 takes 32
    assert [LIBC.text(29, n) for n in (30, 44, 45, 76, 77, 90, 120)] == [88, 88, 104, 120, 136, 160, 192]
    assert [JEMALLOC.text(29, n) - 8 for n in (30, 44, 45, 64, 100)] == [120, 120, 136, 152, 184]


def test_entries_of_packed_blocks() -> None:
    assert [listpack_entry(n) for n in (1, 63, 64, 126, 4_095, 4_096)] == [3, 65, 67, 130, 4_099, 4_103]
    counts, shares = poisson(12.0)
    assert shares.sum() == pytest.approx(1)
    assert (counts * shares).sum() == pytest.approx(12)


def test_a_plan_adds_up_and_grows_with_what_is_asked() -> None:
    catalogue = Catalogue(
        16_000_000, attributes=4, id_dim=16, users=5_000_000, behaviours=200, user_rows=10**6
    )
    made = plan(catalogue, JEMALLOC)
    assert [part.name for part in made.parts] == [
        *("records", "ID rows of items", "ID rows of users", "behaviours")
    ]
    assert made.total == sum(part.total for part in made.parts)
    for part in made.parts:
        assert part.total == pytest.approx(part.rows * part.each, abs=1)
        assert 1.0 < part.each / part.payload < 2.5
    assert made.parts[0].payload == catalogue.record_bytes == 12 + 12 + 16 + 384
    assert (
        plan(Catalogue(16_000_000, attributes=5), JEMALLOC).total
        > plan(Catalogue(16_000_000, attributes=4), JEMALLOC).total
    )
    assert plan(Catalogue(0), LIBC).total == 0


CACHES = {
    "records": Catalogue(items=0, dims=(128, 128), cached=1),
    "and ID rows": Catalogue(items=0, attributes=4, id_dim=16, cached=1, id_bytes=36),
}


@pytest.mark.parametrize("shape", CACHES.values(), ids=CACHES)
def test_a_cache_takes_what_was_planned(shape: Catalogue) -> None:
    found = check_cache(shape)
    assert found.holds, found.to_json()
    assert found.sample.cached == SAMPLE
    assert found.predicted < cache_bytes(found.sample)  # so many rows have a place within that setting


def test_a_cache_of_no_rows_takes_nothing() -> None:
    assert plan_cache(Catalogue(items=1)).total == cache_bytes(Catalogue(items=1)) == 0
    with pytest.raises(InvalidInput, match="id_bytes: are too few"):
        check_cache(Catalogue(items=0, id_bytes=3, cached=1))


def test_samples_are_small_and_of_the_same_shape() -> None:
    big = Catalogue(16_000_000, users=5_000_000, behaviours=200, id_dim=16, buckets=1_600_000, cached=9)
    small = sample_of(big)
    assert (small.items, small.users, small.behaviours) == (SAMPLE, 2_000, 200)
    assert (small.dims, small.id_dim, small.cached) == (big.dims, 16, 0)
    assert small.items / small.buckets == big.items / big.buckets
    assert sample_of(Catalogue(10)) == Catalogue(10)


@pytest.mark.parametrize(
    ("name", "value"), [("items", -1), ("id_bytes", 0), ("id_bytes", 257), ("buckets", 1 << 40)]
)
def test_impossible_catalogues_are_refused(name: str, value: int) -> None:
    with pytest.raises(InvalidInput, match=name):
        replace(Catalogue(1), **{name: value})  # type: ignore[arg-type]
