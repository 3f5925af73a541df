from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.errors import BrokenBundle, Conflict, InvalidInput, NotFound, SpaceMismatch, UnknownVersion
from contracts.manifest import Generation, IdTable
from param_server import keys
from param_server.activation_log import read_log
from param_server.collection import plan_collection
from param_server.connection import connect
from param_server.generations import Generations
from param_server.scene_pointer import MAX_PREVIOUS, Canary, ScenePointer, parse_pointer
from param_server.settings import GenerationSettings, StoreSettings
from param_server.store import Store
from tests.param_server.samples import make_generation, make_id_rows, make_space, seal_ranker

ITEMS = ["a", "b", "c"]


async def ready(redis: Redis, directory: Path) -> Generation:
    """A generation whose space, ID table and ranker bundle are all there."""
    store, space, table = Store(redis), make_space(), IdTable("t", ID_INT8, 16, len(ITEMS))
    await store.create_space(space)
    await store.load_id_rows(table, ITEMS, make_id_rows(len(ITEMS)))
    await store.seal_id_table(table)
    return make_generation(seal_ranker(directory / "ranker", space, len(ITEMS)), space, table)


async def published(redis: Redis, directory: Path, count: int) -> tuple[Generations, list[str]]:
    generations, one = Generations(redis), await ready(redis, directory)
    return generations, [
        await generations.publish(dataclasses.replace(one, created_ms=n)) for n in range(1, count + 1)
    ]


async def test_publish_get_and_list(redis: Redis, tmp_path: Path) -> None:
    generations, one = Generations(redis), await ready(redis, tmp_path)
    late = dataclasses.replace(one, created_ms=9)
    assert await generations.publish(late) == late.id
    assert await generations.publish(one) == one.id
    assert await generations.publish(one) == one.id
    assert await generations.get(one.id) == one
    assert await generations.list() == [one, late]
    with pytest.raises(NotFound, match="no generation 'g0'"):
        await generations.get("g0")


async def test_publish_refuses_what_does_not_belong_together(redis: Redis, tmp_path: Path) -> None:
    generations, good = Generations(redis), await ready(redis, tmp_path)
    other, table = make_space(), good.id_table
    await Store(redis).create_space(other)
    replace = dataclasses.replace
    cases: list[tuple[Generation, type[Exception], str]] = [
        (replace(good, space=other, encoder_digest=other.encoder_digest), SpaceMismatch, "ranker"),
        (replace(good, encoder_digest="f" * 64), SpaceMismatch, "encoder digest"),
        (replace(good, ranker_digest="0" * 64), BrokenBundle, "digest"),
        (replace(good, ranker_uri=str(tmp_path / "nowhere")), NotFound, "bundle"),
        (replace(good, id_table=replace(table, rows=4)), Conflict, "the ranker needs"),
        (replace(good, id_table=replace(table, dim=8)), Conflict, "the ranker needs"),
        (replace(good, id_table=replace(table, name="absent")), Conflict, "not loaded and sealed"),
    ]
    for generation, error, message in cases:
        with pytest.raises(error, match=message):
            await generations.publish(generation)
    unsealed = replace(table, name="unsealed")
    await Store(redis).load_id_rows(unsealed, ITEMS, make_id_rows(3))
    with pytest.raises(Conflict, match="not loaded and sealed"):
        await generations.publish(replace(good, id_table=unsealed))
    assert await generations.list() == []


async def test_publish_refuses_an_absent_space_and_a_broken_bundle(redis: Redis, tmp_path: Path) -> None:
    generations, good = Generations(redis), await ready(redis, tmp_path)
    space = make_space()
    orphan = make_generation(seal_ranker(tmp_path / "orphan", space, 3), space, good.id_table)
    with pytest.raises(NotFound, match=space.id):
        await generations.publish(orphan)
    (Path(good.ranker_uri) / "golden.npz").write_bytes(b"tampered")
    with pytest.raises(BrokenBundle, match=r"golden\.npz"):
        await generations.publish(good)
    assert await generations.list() == []


async def test_activate_and_roll_back(redis: Redis, tmp_path: Path) -> None:
    generations, (a, b, c) = await published(redis, tmp_path, 3)
    assert await generations.pointer("home") is None
    assert await generations.activate("home", a, expected_revision=0) == ScenePointer(a, 1)
    assert await generations.activate("home", a) == ScenePointer(a, 1)
    assert await generations.activate("home", b, expected_revision=1) == ScenePointer(b, 2, (a,))
    assert await generations.activate("home", c) == ScenePointer(c, 3, (b, a))
    assert await generations.activate("search", c) == ScenePointer(c, 1)
    assert await generations.roll_back("home") == ScenePointer(b, 4, (a,))
    assert await generations.roll_back("home") == ScenePointer(a, 5)
    with pytest.raises(NotFound, match="earlier generation"):
        await generations.roll_back("home")
    with pytest.raises(NotFound, match="no scene 'nowhere'"):
        await generations.roll_back("nowhere")
    assert await generations.scenes() == {"home": ScenePointer(a, 5), "search": ScenePointer(c, 1)}
    assert await generations.pointer("home") == ScenePointer(a, 5)


async def test_activation_is_refused_where_it_must_be(redis: Redis, tmp_path: Path) -> None:
    generations, (a, b) = await published(redis, tmp_path, 2)
    with pytest.raises(NotFound, match="'g0'"):
        await generations.activate("home", "g0")
    assert await generations.pointer("home") is None
    await generations.activate("home", a)
    for revision in (0, 2):
        with pytest.raises(Conflict, match=f"at revision 1, expected {revision}"):
            await generations.activate("home", b, expected_revision=revision)
    with pytest.raises(InvalidInput, match="scene"):
        await generations.activate("", b)
    assert await generations.pointer("home") == ScenePointer(a, 1)


async def test_of_two_activators_that_saw_the_same_one_wins(redis: Redis, tmp_path: Path) -> None:
    generations, ids = await published(redis, tmp_path, 9)
    await generations.activate("home", ids[0])
    outcomes = await asyncio.gather(
        *(generations.activate("home", i, expected_revision=1) for i in ids[1:]), return_exceptions=True
    )
    winners = [o for o in outcomes if isinstance(o, ScenePointer)]
    assert len(winners) == 1
    assert sum(isinstance(o, Conflict) for o in outcomes) == len(outcomes) - 1
    assert (
        await generations.pointer("home")
        == winners[0]
        == ScenePointer(winners[0].generation_id, 2, (ids[0],))
    )


async def test_activators_that_expect_nothing_all_take_their_turn(
    redis: Redis, tmp_path: Path, settings: StoreSettings
) -> None:
    generations, ids = await published(redis, tmp_path, 6)
    assert settings.redis_url is not None
    async with connect(settings.redis_url, settings) as second:
        moved = await asyncio.gather(
            *((generations, Generations(second))[n % 2].activate("home", i) for n, i in enumerate(ids))
        )
    final = await generations.pointer("home")
    assert final is not None
    assert sorted(p.revision for p in moved) == [1, 2, 3, 4, 5, 6]
    assert {final.generation_id, *final.previous} == set(ids)


async def test_the_past_is_bounded(redis: Redis, tmp_path: Path) -> None:
    generations, ids = await published(redis, tmp_path, 14)
    for i in ids:
        pointer = await generations.activate("home", i)
    assert pointer.previous == tuple(ids[::-1][1 : MAX_PREVIOUS + 1])
    assert pointer.revision == 14


async def test_a_pointer_is_versioned_json(redis: Redis) -> None:
    pointer = ScenePointer("gb", 3, ("ga",))
    assert pointer.to_bytes() == b'{"generation_id":"gb","previous":["ga"],"revision":3,"version":1}'
    assert parse_pointer(pointer.to_bytes()) == pointer
    with pytest.raises(UnknownVersion, match="version 3"):
        parse_pointer(pointer.to_bytes().replace(b'"version":1', b'"version":3'))
    for broken in (b"", b"[]", b'{"version":1}', b"\xff"):
        with pytest.raises(InvalidInput, match="scene pointer"):
            parse_pointer(broken)
    await redis.hset(keys.scenes().decode(), "home", '{"version":7}')
    with pytest.raises(UnknownVersion, match="version 7"):
        await Generations(redis).pointer("home")


async def test_a_canary_is_widened_promoted_or_aborted(redis: Redis, tmp_path: Path) -> None:
    generations, (a, b, c) = await published(redis, tmp_path, 3)
    with pytest.raises(NotFound, match="no scene 'home'"):
        await generations.canary("home", b, 0.1)
    await generations.activate("home", a)
    tried = await generations.canary("home", b, 0.05)
    assert tried == ScenePointer(a, 2, (), Canary(b, 0.05, b))
    assert await generations.pointer("home") == tried
    assert await generations.canary("home", b, 0.05) == tried
    wider = await generations.canary("home", b, 0.2, expected_revision=2)
    assert wider == ScenePointer(a, 3, (), Canary(b, 0.2, b))
    for generation, message in ((a, "serves generation"), (c, f"tries generation {b}")):
        with pytest.raises(Conflict, match=message):
            await generations.canary("home", generation, 0.1)
    with pytest.raises(Conflict, match="promote or abort it first"):
        await generations.activate("home", c)
    with pytest.raises(Conflict, match="at revision 3, expected 2"):
        await generations.canary("home", b, 0.5, expected_revision=2)
    assert await generations.promote("home") == ScenePointer(b, 4, (a,))
    for act in (generations.promote, generations.abort):
        with pytest.raises(Conflict, match="has no canary"):
            await act("home")
    await generations.canary("home", c, 0.5, salt="s")
    assert await generations.abort("home") == ScenePointer(b, 6, (a,))
    await generations.canary("home", c, 0.5)
    assert await generations.roll_back("home") == ScenePointer(a, 8)
    with pytest.raises(NotFound, match="'g0'"):
        await generations.canary("home", "g0", 0.5)
    lines = await read_log(redis, "home")
    assert [(line.action, line.left, line.to, line.share) for line in lines] == [
        ("roll back", b, a, None),
        ("canary", b, c, 0.5),
        ("abort", c, b, None),
        ("canary", b, c, 0.5),
        ("promote", a, b, None),
        ("canary", a, b, 0.2),
        ("canary", a, b, 0.05),
        ("activate", None, a, None),
    ]


async def test_a_canary_is_not_collected(redis: Redis, tmp_path: Path) -> None:
    generations, (a, b) = await published(redis, tmp_path, 2)
    await generations.activate("home", a)
    await generations.canary("home", b, 0.05)
    plan, _ = await plan_collection(redis, GenerationSettings(collect_grace_s=0, collect_keep=0))
    assert plan.parts == ()
    assert "scene home tries it" in {kept.why for kept in plan.kept}


def test_who_gets_a_canary() -> None:
    users = [f"user-{n}".encode() for n in range(4_000)]
    few, more = ({u for u in users if Canary("g", share, "salt").takes(u)} for share in (0.05, 0.2))
    assert few < more
    assert 140 < len(few) < 260
    assert 700 < len(more) < 900
    other = {u for u in users if Canary("g", 0.05, "pepper").takes(u)}
    assert len(other & few) < 40
    assert [u for u in range(100) if Canary("g", 0.05, "salt").takes(b"user-%d" % u)] == [8, 13, 46, 61, 95]
    for share, salt in ((0.0, "s"), (1.0, "s"), (float("nan"), "s"), (0.5, ""), (0.5, "s" * 201)):
        with pytest.raises(InvalidInput):
            Canary("g", share, salt)
    pointer = ScenePointer("gb", 3, ("ga",), Canary("gc", 0.05, "salt"))
    assert parse_pointer(pointer.to_bytes()) == pointer
    assert b'"version":2' in pointer.to_bytes()
