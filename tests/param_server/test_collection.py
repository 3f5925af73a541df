"""Collecting what serves no more: what goes, what stays, kills in the middle, races with publishers."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.errors import Conflict, NotFound, UnknownVersion
from contracts.manifest import Generation, IdTable
from contracts.space import Space, buckets_for
from param_server import keys
from param_server.collection import Collected, collect, plan_collection
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.parts import Part, parse_part
from param_server.pins import Pins
from param_server.removal import family_of
from param_server.settings import GenerationSettings
from param_server.store import Store
from param_server.window_stream import window_stream
from tests.param_server.samples import make_generation, make_id_rows, make_space, make_window, seal_ranker

AT_ONCE = GenerationSettings(collect_grace_s=0, collect_unpublished_s=0, collect_keep=0)
ROOT = Path(__file__).parent.parent.parent
ITEMS = [f"item-{n}" for n in range(40)]


async def now(redis: Redis, settings: GenerationSettings = AT_ONCE) -> Collected:
    return await collect(redis, settings, settle_s=0, lease_s=0.5)


async def filled(redis: Redis, space: Space, sequence: int = 7) -> None:
    await Store(redis).create_space(space)
    await Store(redis).commit_window(make_window(space, ITEMS, [sequence] * len(ITEMS)))


async def sealed(redis: Redis, table: IdTable, seed: int = 0) -> None:
    await Store(redis).load_id_rows(table, ITEMS[: table.rows], make_id_rows(table.rows, seed=seed))
    await Store(redis).seal_id_table(table)


async def published(
    redis: Redis, folder: Path, space: Space, table: str, base: str | None = None
) -> Generation:
    """A generation with an ID table of its own in a space that is made where it is not there."""
    await filled(redis, space)
    of = IdTable(table, ID_INT8, 16, 3, base)
    await sealed(redis, of)
    bundle = seal_ranker(folder / table, space, 3, base)
    generation = make_generation(bundle, space, of, created_ms=len(table))
    await Generations(redis).publish(generation)
    return generation


async def leftovers(redis: Redis, *families: keys.Family) -> list[bytes]:
    """Keys of tables that are there although they should be gone."""
    found = []
    for family in families:
        start = family.key_of(b"x").split(b".")[0]
        shard = family.shard_keys[0].split(b".")[0]
        found += [key async for key in redis.scan_iter(count=5_000) if key.startswith((start, shard))]
    return found


def rows_of(generation: Generation) -> tuple[keys.Family, keys.Family]:
    space, table = generation.space, generation.id_table
    return keys.records(space.id, space.buckets), keys.id_rows(table.name, table.rows)


async def test_what_no_scene_serves_goes_and_leaves_nothing(redis: Redis, tmp_path: Path) -> None:
    generations = Generations(redis)
    old = await published(redis, tmp_path, make_space(), "old")
    new = await published(redis, tmp_path, make_space(), "new")
    await redis.hset(cast(str, keys.probes()), old.space.id, "guard")
    await redis.hset(cast(str, keys.loads()), f"{old.space.id}:source", "{}")
    await redis.xadd(window_stream(old.space.id), {b"w": b"x"})
    await generations.activate("home", old.id)
    await generations.activate("home", new.id)
    report = await now(redis)
    assert report.parts == [
        Part("generation", old.id), Part("space", old.space.id), Part("id_table", "old")
    ]  # fmt: skip
    assert [g.id for g in await generations.list()] == [new.id]
    assert await leftovers(redis, *rows_of(old)) == []
    assert not await redis.exists(window_stream(old.space.id))
    for key in (keys.probes(), keys.loads(), keys.collecting()):
        assert await redis.hlen(cast(str, key)) == 0
    left = {Part("generation", new.id), Part("space", new.space.id), Part("id_table", "new")}
    assert set(await redis.hkeys(cast(str, keys.used()))) == {part.field for part in left}
    assert await redis.smembers(cast(str, keys.id_tables_sealed())) == {b"new"}
    with pytest.raises(NotFound, match="earlier generation"):
        await generations.roll_back("home")
    got = await Store(redis).fetch(new.space, new.id_table, ITEMS)
    assert got.found.all()
    assert got.id_found.sum() == 3
    assert (await now(redis)).parts == []


async def test_a_new_ranker_on_the_same_space_keeps_the_space(redis: Redis, tmp_path: Path) -> None:
    space, generations = make_space(), Generations(redis)
    first = await published(redis, tmp_path, space, "first")
    second = await published(redis, tmp_path, space, "second")
    await generations.activate("home", second.id)
    report = await now(redis)
    assert report.parts == [Part("generation", first.id), Part("id_table", "first")]
    assert (await Store(redis).fetch(space, second.id_table, ITEMS)).found.all()


async def test_a_base_stays_as_long_as_an_overlay_of_it(redis: Redis, tmp_path: Path) -> None:
    space, generations = make_space(), Generations(redis)
    base = await published(redis, tmp_path, space, "base")
    over = await published(redis, tmp_path, space, "over", base="base")
    await generations.activate("home", over.id)
    assert (await now(redis)).parts == [Part("generation", base.id)]
    got = await Store(redis).fetch(space, over.id_table, ITEMS[:3])
    assert got.id_found.all()
    third = await published(redis, tmp_path, space, "third")
    await generations.activate("home", third.id)
    gone = {Part("generation", over.id), Part("id_table", "base"), Part("id_table", "over")}
    assert set((await now(redis)).parts) == gone


async def test_what_can_be_rolled_back_to_stays(redis: Redis, tmp_path: Path) -> None:
    space, generations = make_space(), Generations(redis)
    a, b, c = [await published(redis, tmp_path, space, name) for name in ("a", "bb", "ccc")]
    for generation in (a, b, c):
        await generations.activate("home", generation.id)
    keep_one = AT_ONCE.model_copy(update={"collect_keep": 1})
    report = await now(redis, keep_one)
    assert report.parts == [Part("generation", a.id), Part("id_table", "a")]
    assert {kept.why for kept in report.kept if kept.part.name == b.id} == {
        "scene home can be rolled back to it"
    }
    assert (await generations.roll_back("home")).generation_id == b.id
    with pytest.raises(NotFound, match="earlier generation"):
        await generations.roll_back("home")


async def test_the_young_the_pinned_and_the_loading_stay(redis: Redis, tmp_path: Path) -> None:
    old = await published(redis, tmp_path, make_space(), "old")
    waiting = make_space()
    await filled(redis, waiting)
    careful = GenerationSettings(collect_grace_s=3_600)
    report = await now(redis, careful)
    assert report.parts == []
    why = {kept.part: kept.why for kept in report.kept}
    assert "goes after 3,600 s" in why[Part("generation", old.id)]
    assert "no generation ever named it" in why[Part("space", waiting.id)]
    published_only = GenerationSettings(collect_grace_s=0, collect_keep=0)
    pins = Pins(redis)
    pinned = await pins.pin(waiting.id[:8], "vectors of another team")
    assert pinned == Part("space", waiting.id)
    await pins.pin(old.id, "the paper's")
    assert (await now(redis)).parts == []
    await pins.unpin(old.id)
    await pins.unpin(waiting.id)
    await redis.hset(cast(str, keys.loads()), f"{old.space.id}:source", "{}")
    assert (await now(redis, published_only)).parts == [
        Part("generation", old.id), Part("id_table", "old")
    ]  # fmt: skip
    await redis.hdel(cast(str, keys.loads()), f"{old.space.id}:source")
    assert (await now(redis, published_only)).parts == [Part("space", old.space.id)]
    assert (await now(redis)).parts == [Part("space", waiting.id)]


async def test_a_dry_run_writes_nothing(redis: Redis, tmp_path: Path) -> None:
    await published(redis, tmp_path, make_space(), "old")
    before = {key: await redis.dump(key) for key in await redis.keys()}
    made, left = await plan_collection(redis, AT_ONCE)
    assert len(made.parts) == 3
    assert left == []
    assert {key: await redis.dump(key) for key in await redis.keys()} == before


async def test_parts_of_a_server_from_before_count_from_the_first_collection(
    redis: Redis, tmp_path: Path
) -> None:
    await published(redis, tmp_path, make_space(), "old")
    await redis.delete(keys.used(), keys.published())
    report = await now(redis, GenerationSettings(collect_grace_s=3_600))
    assert report.parts == []
    assert await redis.hlen(cast(str, keys.used())) == 3


async def test_the_newest_sequence_outlives_its_space(redis: Redis) -> None:
    space = make_space()
    await filled(redis, space, 2**53 + 7)
    assert (await now(redis)).parts == [Part("space", space.id)]
    assert await Store(redis).high_water() == 2**53 + 7
    small = make_space()
    await filled(redis, small, 5)
    assert (await now(redis)).parts == [Part("space", small.id)]
    assert await Store(redis).high_water() == 2**53 + 7


async def test_a_part_that_is_being_collected_is_refused_until_it_is_gone(
    redis: Redis, tmp_path: Path
) -> None:
    old = await published(redis, tmp_path, make_space(), "old")
    writer, generations = Store(redis), Generations(redis)
    await writer.commit_window(make_window(old.space, ITEMS, [8] * len(ITEMS)))  # knows the space
    await stop_after_marking(redis)
    with pytest.raises(Conflict, match="is being collected"):
        await Store(redis).commit_window(make_window(old.space, ITEMS, [9] * len(ITEMS)))
    with pytest.raises(NotFound, match=old.space.id):
        await writer.commit_window(make_window(old.space, ITEMS, [9] * len(ITEMS)))
    with pytest.raises(Conflict, match="is being collected"):
        await Store(redis).create_space(old.space)
    with pytest.raises(Conflict, match="is being collected"):
        await Store(redis).load_id_rows(old.id_table, ITEMS[:3], make_id_rows(3))
    with pytest.raises((Conflict, NotFound)):
        await generations.publish(old)
    with pytest.raises(NotFound, match=old.id):
        await generations.activate("home", old.id)
    assert await writer.high_water() == 8
    report = await now(redis)
    assert report.resumed == [Part("id_table", "old"), Part("space", old.space.id)]
    assert await leftovers(redis, *rows_of(old)) == []
    assert await writer.high_water() == 8
    again = await published(redis, tmp_path / "again", old.space, "old")
    assert (await writer.fetch(again.space, again.id_table, ITEMS)).found.all()


async def stop_after_marking(redis: Redis) -> None:
    """A collection that ends between marking and the first row removed."""
    task = asyncio.create_task(collect(redis, AT_ONCE, settle_s=600, lease_s=0.5))
    async with asyncio.timeout(10):
        while not await redis.hlen(cast(str, keys.collecting())):
            await asyncio.sleep(0.005)
        for field, stored in (await redis.hgetall(cast(str, keys.collecting()))).items():
            family = family_of(parse_part(cast(bytes, field)), cast(bytes, stored))
            while not await redis.hget(cast(str, family.shard_keys[-1]), "retired"):
                await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


_COLLECT = """
import asyncio, sys
from param_server.collection import collect
from param_server.connection import connect
from param_server.settings import GenerationSettings, StoreSettings
async def main():
    redis = connect(sys.argv[1], StoreSettings())
    settings = GenerationSettings(collect_grace_s=0, collect_unpublished_s=0, collect_keep=0)
    say = lambda part, done, total: print(done, total, flush=True)
    await collect(redis, settings, settle_s=0, lease_s=0.5, progress=say)
asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 30, 60])
async def test_killed_in_the_middle_it_is_finished_by_the_next(
    redis: Redis, server: EmbeddedServer, tmp_path: Path, after: int
) -> None:
    space = dataclasses.replace(make_space(), buckets=buckets_for(400_000))
    old = await published(redis, tmp_path, space, "old")
    live = await published(redis, tmp_path, make_space(), "live")
    await Generations(redis).activate("home", live.id)
    await Store(redis).commit_window(make_window(space, [f"i{n}" for n in range(4_000)], [9] * 4_000))
    with subprocess.Popen(
        [sys.executable, "-c", _COLLECT, server.url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(after):
            assert await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGKILL)
    assert await redis.hlen(cast(str, keys.collecting())) > 0
    assert await leftovers(redis, *rows_of(old)) != []
    assert await Store(redis).high_water() == 9
    report = await now(redis)
    assert Part("id_table", "old") in report.resumed
    assert await leftovers(redis, *rows_of(old)) == []
    assert await redis.hlen(cast(str, keys.collecting())) == 0
    assert await Store(redis).high_water() == 9
    assert (await Store(redis).fetch(live.space, live.id_table, ITEMS)).found.all()


@pytest.mark.parametrize("unpublished_s", [0, 3_600])
async def test_publishers_and_collectors_race_and_what_serves_is_whole(
    redis: Redis, tmp_path: Path, unpublished_s: int
) -> None:
    generations, moved, collected = Generations(redis), 0, 0
    base = make_space()
    eager = AT_ONCE.model_copy(update={"collect_unpublished_s": unpublished_s})

    async def publish_all() -> None:
        nonlocal moved
        for n in range(24):
            space = dataclasses.replace(base, buckets=1 + n)  # a new one each time
            try:
                generation = await published(redis, tmp_path, space, f"rows-{n}")
                await generations.activate("home", generation.id)
            except (Conflict, NotFound):
                continue  # taken before a scene needed it
            moved += 1
            for _ in range(3):
                got = await Store(redis).fetch(space, generation.id_table, ITEMS)
                assert got.found.all()
                assert got.id_found.sum() == 3

    publishing = asyncio.create_task(publish_all())
    while not publishing.done():
        collected += len((await now(redis, eager)).parts)
    await publishing
    assert collected > 0
    assert unpublished_s == 0 or moved > 0
    for found in await generations.list():
        assert await Store(redis).space(found.space.id) == found.space
        assert await Store(redis).id_table_ready(found.id_table)
    for pointer in (await generations.scenes()).values():
        assert await generations.get(pointer.generation_id)


async def test_one_collection_at_a_time(redis: Redis, tmp_path: Path) -> None:
    await published(redis, tmp_path, make_space(), "old")
    first = asyncio.create_task(collect(redis, AT_ONCE, settle_s=600, lease_s=1))
    async with asyncio.timeout(10):
        while not await redis.hlen(cast(str, keys.collecting())):
            await asyncio.sleep(0.005)
    with pytest.raises(Conflict, match="another collection is running"):
        await collect(redis, AT_ONCE, settle_s=0, lease_s=0.1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert len((await now(redis)).parts) == 2


async def test_nothing_is_collected_where_a_manifest_cannot_be_read(redis: Redis, tmp_path: Path) -> None:
    old = await published(redis, tmp_path, make_space(), "old")
    later = old.to_bytes().replace(b'"version":1}', b'"version":9}')
    assert later != old.to_bytes()
    await redis.hset(cast(str, keys.generations()), "g-later", cast(str, later))
    with pytest.raises(UnknownVersion, match="generation manifest"):
        await now(redis)
    assert (await Store(redis).fetch(old.space, old.id_table, ITEMS)).found.all()
    assert await redis.hlen(cast(str, keys.collecting())) == 0


async def test_a_reader_that_lags_behind_finds_nothing_not_half(redis: Redis, tmp_path: Path) -> None:
    """The space is shared and stays: an item without its ID row would be scored wrong and called ok."""
    space, generations = make_space(), Generations(redis)
    old = await published(redis, tmp_path, space, "old")
    new = await published(redis, tmp_path, space, "new")
    await generations.activate("home", new.id)
    reader = Store(redis)
    assert (await reader.fetch(space, old.id_table, ITEMS)).found.all()
    await stop_after_marking(redis)
    for _ in range(2):  # retired, then gone
        got = await reader.fetch(space, old.id_table, ITEMS)
        assert not got.found.any()
        assert not got.id_found.any()
        await now(redis)
    got = await reader.fetch(space, new.id_table, ITEMS)
    assert got.found.all()
    assert got.id_found.sum() == 3
