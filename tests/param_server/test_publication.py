"""Bundles onto the shelf; and a shelf that lost everything, back from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle, seal, write_golden
from contracts.codec import ID_INT8
from contracts.errors import Conflict, InvalidInput, NotFound, UnknownVersion
from contracts.manifest import Generation, IdTable
from contracts.space import Space
from param_server.activation_log import Trace, read_log
from param_server.export import export_id_table
from param_server.generations import Generations
from param_server.id_rows import write_id_rows
from param_server.id_tables import id_table
from param_server.pins import Pins
from param_server.publication import publish_ranker
from param_server.publication_file import Published, read_published, restore
from param_server.scene_pointer import ScenePointer
from param_server.store import Store
from param_server.table_load import load_id_rows
from tests.param_server.samples import make_id_rows, make_space, make_window, ranker_content

ITEMS = [f"item {n}" for n in range(20)]
FULL = "items-v1"


def ranker(folder: Path, space: Space, rows: int, base: str | None = None) -> Bundle:
    """A sealed bundle with its ID rows. Its graph is never run."""
    folder.mkdir()
    write_golden(folder, {})
    write_id_rows(folder / "id_rows.parquet", ITEMS[:rows], make_id_rows(rows, seed=rows))
    return seal(folder, "ranker", ranker_content(space, rows, base))


async def filled(redis: Redis) -> Space:
    """A space with records."""
    space = make_space()
    await Store(redis).create_space(space)
    await Store(redis).commit_window(make_window(space, ITEMS, range(1, 21)))
    return space


async def two(redis: Redis, tmp_path: Path, space: Space) -> list[Generation]:
    """A generation, and the day after as an overlay; the scene went from one to the other."""
    full = ranker(tmp_path / "full", space, 12)
    over = ranker(tmp_path / "over", space, 5, FULL)
    first = await publish_ranker(redis, str(full.path), encoder_uri="", id_table=FULL)
    second = await publish_ranker(redis, str(over.path))
    for generation in (first, second):
        await Generations(redis).activate("home", generation.id)
    return [first, second]


async def test_a_ranker_bundle_becomes_a_generation(redis: Redis, tmp_path: Path) -> None:
    space = await filled(redis)
    bundle = ranker(tmp_path / "r", space, 12)
    with pytest.raises(InvalidInput, match="encoder"):
        await publish_ranker(redis, str(bundle.path))
    seen: list[tuple[int, int]] = []
    made = await publish_ranker(
        redis, str(bundle.path), encoder_uri="", progress=lambda done, total: seen.append((done, total))
    )
    assert made.id_table == IdTable(f"items-{bundle.digest[:16]}", ID_INT8, 16, 12)
    assert seen == [(12, 12)]
    assert await Generations(redis).list() == [made]
    fetched = await Store(redis).fetch(space, made.id_table, ITEMS)
    assert fetched.id_found.tolist() == [True] * 12 + [False] * 8
    again = await publish_ranker(redis, str(bundle.path))  # the encoder as in the earlier generation
    assert again == made
    assert await Generations(redis).list() == [made]


async def test_a_space_that_is_not_there_is_named(redis: Redis, tmp_path: Path) -> None:
    bundle = ranker(tmp_path / "r", make_space(), 3)
    with pytest.raises(NotFound, match="space"):
        await publish_ranker(redis, str(bundle.path), encoder_uri="")
    assert await Generations(redis).list() == []


async def test_a_lost_server_comes_back_from_the_file(redis: Redis, tmp_path: Path) -> None:
    space = await filled(redis)
    first, second = await two(redis, tmp_path, space)
    await Pins(redis).pin(first.id, "compared with")
    before = Published.from_bytes((await read_published(redis)).to_bytes())
    assert before == await read_published(redis)
    assert before.generations == (first, second)

    await redis.flushall()
    await redis.script_flush()
    empty = await restore(redis, before)  # records come first
    assert len(empty.failures) == 4
    assert "no space" in empty.failures[f"generation {first.id}"]
    assert await Generations(redis).scenes() == {}

    await Store(redis).create_space(space)
    await Store(redis).commit_window(make_window(space, ITEMS, range(1, 21)))
    report = await restore(redis, before, by="ann")
    assert report.failures == {}
    assert report.generations == [first.id, second.id]
    assert await read_published(redis) == before
    assert (await Generations(redis).scenes())["home"] == ScenePointer(second.id, 2, (first.id,))
    (line,) = await read_log(redis, "home")
    assert (line.action, line.to, line.revision, line.trace) == ("restore", second.id, 2, Trace("ann"))
    fetched = await Store(redis).fetch(space, second.id_table, ITEMS)
    assert fetched.found.all()
    assert fetched.id_found.sum() == 12
    assert fetched.id_rows[:5].tobytes() == make_id_rows(5, seed=5).tobytes()
    assert (await restore(redis, before)).failures == {}  # again: nothing is doubled
    assert len(await read_log(redis, "home")) == 1


async def test_what_is_broken_stops_nothing_else(redis: Redis, tmp_path: Path) -> None:
    space = await filled(redis)
    first, second = await two(redis, tmp_path, space)
    await Generations(redis).activate("search", first.id)
    await Generations(redis).canary("search", second.id, 0.25)
    before = await read_published(redis)
    for key in await redis.keys("*"):
        if b"generation" in key or b"scenes" in key:
            await redis.delete(key)
    (tmp_path / "over" / "id_rows.parquet").write_bytes(b"something else")
    report = await restore(redis, before)
    assert report.generations == [first.id]
    assert report.scenes == ["search"]
    assert await Generations(redis).scenes() == {"search": ScenePointer(first.id, 2)}  # without its canary
    assert set(report.failures) == {f"generation {second.id}", "scene home"}
    assert "id_rows.parquet" in report.failures[f"generation {second.id}"]


async def test_a_scene_that_serves_keeps_what_it_serves(redis: Redis, tmp_path: Path) -> None:
    first, second = await two(redis, tmp_path, await filled(redis))
    before = await read_published(redis)
    await Generations(redis).activate("home", first.id)
    report = await restore(redis, before)
    assert report.failures == {"scene home": f"scene 'home' serves generation {first.id} already"}
    pointer = await Generations(redis).pointer("home")
    assert pointer is not None
    assert pointer.generation_id == first.id
    assert report.generations == [first.id, second.id]


async def test_files_of_unknown_kinds_are_refused(redis: Redis, tmp_path: Path) -> None:
    first, _ = await two(redis, tmp_path, await filled(redis))
    document = json.loads((await read_published(redis)).to_bytes())
    with pytest.raises(UnknownVersion, match="file of generations"):
        Published.from_bytes(json.dumps({**document, "version": 2}).encode())
    pins = [{"kind": "user", "name": first.id, "why": "x"}]
    with pytest.raises(InvalidInput, match=r"pins\.kind"):
        Published.from_bytes(json.dumps({**document, "pins": pins}).encode())
    for broken in (
        b"",
        b"[]",
        b"null",
        b'{"version": 1}',
        b"\xff",
        json.dumps({**document, "pins": 3}).encode(),
    ):
        with pytest.raises(InvalidInput, match="file of generations"):
            Published.from_bytes(broken)


async def test_an_overlay_goes_out_and_in_with_its_base(redis: Redis, tmp_path: Path) -> None:
    _, second = await two(redis, tmp_path, await filled(redis))
    table = await id_table(redis, second.id_table.name)
    assert table == second.id_table
    assert table.base == FULL
    await export_id_table(redis, table, tmp_path / "over.parquet")
    await export_id_table(redis, await id_table(redis, FULL), tmp_path / "full.parquet")
    await redis.flushall()
    await redis.script_flush()
    with pytest.raises(Conflict, match=f"its base {FULL} is not loaded"):
        await load_id_rows(redis, tmp_path / "over.parquet", table.name)
    await load_id_rows(redis, tmp_path / "full.parquet", FULL)
    await load_id_rows(redis, tmp_path / "over.parquet", table.name)
    assert await id_table(redis, table.name) == table
    assert await Store(redis).id_table_ready(table)
