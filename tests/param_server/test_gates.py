"""Gates before activation: what they measure, what they refuse, the trace of what was forced."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from contracts.bundle import MANIFEST, Bundle, seal, write_golden
from contracts.codec import ID_INT8
from contracts.errors import Conflict, GateFailed, InvalidInput, NotFound, UnknownVersion
from contracts.manifest import Generation, IdTable
from contracts.space import Space
from param_server import keys
from param_server.activation import Checked, activate_checked, check_generation
from param_server.activation_log import LINES, GateResult, LogLine, Trace, parse_line, read_log
from param_server.generation_facts import differences, facts_of
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.scene_pointer import ScenePointer
from param_server.settings import GenerationSettings
from param_server.store import Store
from tests.param_server.samples import make_deletes, make_generation, make_space, make_window
from tests.ranker_bundle import make_ranker_bundle

ITEMS = [f"item-{n}" for n in range(200)]
WITH_ROWS = ITEMS[:50]
OLD = make_space()
SETTINGS = GenerationSettings(coverage_sample=0)


@pytest.fixture(scope="session")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real graph with golden outputs that it reproduces."""
    return make_ranker_bundle(tmp_path_factory.mktemp("gates") / "ranker", OLD, WITH_ROWS)


def for_space(bundle: Bundle, space: Space, folder: Path, golden_off: float = 0.0) -> Bundle:
    """The same graph as a ranker of another space; its golden outputs moved by `golden_off`."""
    shutil.copytree(bundle.path, folder)
    (folder / MANIFEST).unlink()
    ((graph, (inputs, outputs)),) = bundle.golden().items()
    moved = {name: np.asarray(array + golden_off, array.dtype) for name, array in outputs.items()}
    write_golden(folder, {graph: (inputs, moved)})
    return seal(folder, "ranker", {**bundle.manifest.content, "space": space.to_json()})


async def published(redis: Redis, bundle: Bundle, space: Space, covered: list[str]) -> Generation:
    store, table = Store(redis), IdTable("rows", ID_INT8, 8, len(WITH_ROWS))
    await store.create_space(space)
    await store.commit_window(make_window(space, covered, [3] * len(covered)))
    ids, rows = read_id_rows(bundle.file("id_rows.parquet"), table.codec, table.dim)
    await store.load_id_rows(table, ids, rows)
    await store.seal_id_table(table)
    generation = make_generation(bundle, space, table, created_ms=len(covered))
    await Generations(redis).publish(generation)
    return generation


def result(checked: Checked, gate: str) -> GateResult:
    (found,) = [g for g in checked.gates if g.gate == gate]
    return found


async def test_the_first_generation_of_a_scene_has_nothing_to_compare_with(
    redis: Redis, ranker: Bundle
) -> None:
    one = await published(redis, ranker, OLD, ITEMS)
    checked = await check_generation(redis, "home", one.id, SETTINGS)
    golden = result(checked, "golden replay")
    assert golden.passed
    assert golden.value is not None
    assert 0 <= golden.value <= cast(float, golden.threshold) == 1e-4
    assert result(checked, "coverage").value is None
    assert "nothing to compare with" in result(checked, "coverage").detail
    assert await Generations(redis).pointer("home") is None
    assert await activate_checked(redis, "home", checked, by="ann") == ScenePointer(one.id, 1)


@pytest.mark.parametrize(("covered", "passes"), [(198, True), (197, False)])
async def test_coverage_of_what_the_scene_serves(
    redis: Redis, ranker: Bundle, tmp_path: Path, covered: int, passes: bool
) -> None:
    one, space = await published(redis, ranker, OLD, [*ITEMS, "deleted"]), make_space()
    await Store(redis).commit_window(make_deletes(OLD, ["deleted"], [9]))
    await Generations(redis).activate("home", one.id)
    two = await published(redis, for_space(ranker, space, tmp_path / "two"), space, ITEMS[:covered])
    await Store(redis).commit_window(make_window(space, ["only in the new one"], [1]))
    checked = await check_generation(redis, "home", two.id, SETTINGS)
    gate = result(checked, "coverage")
    assert (gate.value, gate.threshold, gate.passed) == (covered / 200, 0.99, passes)
    assert f"{covered} of 200 live items of space {OLD.id}" in gate.detail
    assert result(checked, "ID row coverage").value == 50 / 200
    if passes:
        assert (await activate_checked(redis, "home", checked, by="ann")).generation_id == two.id
        return
    with pytest.raises(GateFailed, match=r"gate coverage: measured 0\.985, the threshold is 0\.99") as error:
        await activate_checked(redis, "home", checked, by="ann")
    assert (error.value.gate, error.value.value, error.value.threshold) == ("coverage", 0.985, 0.99)
    assert error.value.code == "conflict"
    assert await Generations(redis).pointer("home") == ScenePointer(one.id, 1)


async def test_deleted_in_the_new_space_is_not_covered(redis: Redis, ranker: Bundle, tmp_path: Path) -> None:
    one, space = await published(redis, ranker, OLD, ITEMS), make_space()
    await Generations(redis).activate("home", one.id)
    two = await published(redis, for_space(ranker, space, tmp_path / "two"), space, ITEMS)
    await Store(redis).commit_window(make_deletes(space, ITEMS[:4], [9] * 4))
    checked = await check_generation(redis, "home", two.id, SETTINGS)
    assert result(checked, "coverage").value == 196 / 200


async def test_coverage_of_a_sample(redis: Redis, ranker: Bundle, tmp_path: Path) -> None:
    old = dataclasses.replace(OLD, buckets=64)
    one, space = await published(redis, for_space(ranker, old, tmp_path / "one"), old, ITEMS), make_space()
    await Generations(redis).activate("home", one.id)
    two = await published(redis, for_space(ranker, space, tmp_path / "two"), space, [])
    sampled = GenerationSettings(coverage_sample=50)
    gate = result(await check_generation(redis, "home", two.id, sampled), "coverage")
    assert gate.value == 0
    assert "a sample of the live items" in gate.detail
    assert 10 < int(gate.detail.split()[2]) < 120


async def test_coverage_of_a_given_catalogue(redis: Redis, ranker: Bundle, tmp_path: Path) -> None:
    one = await published(redis, ranker, OLD, ITEMS)
    file = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": [*ITEMS, *ITEMS[:9], "not encoded"], "title": ["t"] * 210}), file)
    checked = await check_generation(redis, "home", one.id, SETTINGS, catalogue=file)
    gate = result(checked, "coverage")
    assert gate.value == 200 / 201
    assert gate.passed
    strict = SETTINGS.model_copy(update={"min_coverage": 1.0, "min_id_coverage": 0.5})
    checked = await check_generation(redis, "home", one.id, strict, catalogue=file)
    assert not result(checked, "coverage").passed
    assert not result(checked, "ID row coverage").passed
    pq.write_table(pa.table({"item_id": [1, 2]}), file)
    gate = result(await check_generation(redis, "home", one.id, SETTINGS, catalogue=file), "coverage")
    assert not gate.passed
    assert "items.parquet.item_id" in gate.detail


async def test_golden_outputs_that_are_not_reproduced(redis: Redis, ranker: Bundle, tmp_path: Path) -> None:
    bundle = for_space(ranker, OLD, tmp_path / "off", golden_off=0.01)
    one = await published(redis, bundle, OLD, ITEMS)
    checked = await check_generation(redis, "home", one.id, SETTINGS)
    gate = result(checked, "golden replay")
    assert not gate.passed
    assert gate.value == pytest.approx(0.01, abs=1e-4)
    with pytest.raises(GateFailed, match="golden replay"):
        await activate_checked(redis, "home", checked, by="ann")
    wide = SETTINGS.model_copy(update={"golden_tolerance": 0.02})
    assert result(await check_generation(redis, "home", one.id, wide), "golden replay").passed


async def test_a_bundle_that_cannot_be_opened_fails_its_gate(
    redis: Redis, ranker: Bundle, tmp_path: Path
) -> None:
    bundle = for_space(ranker, OLD, tmp_path / "gone")
    one = await published(redis, bundle, OLD, ITEMS)
    shutil.rmtree(bundle.path)
    gate = result(await check_generation(redis, "home", one.id, SETTINGS), "golden replay")
    assert not gate.passed
    assert gate.value is None
    assert "no bundle" in gate.detail


async def test_a_row_of_an_unknown_version_fails_coverage(
    redis: Redis, ranker: Bundle, tmp_path: Path
) -> None:
    one, space = await published(redis, ranker, OLD, ITEMS), make_space()
    await Generations(redis).activate("home", one.id)
    two = await published(redis, for_space(ranker, space, tmp_path / "two"), space, ITEMS)
    family = keys.records(space.id, space.buckets)
    await redis.hset(cast(str, family.key_of(ITEMS[7].encode())), ITEMS[7], b"\x09\x01planted")
    gate = result(await check_generation(redis, "home", two.id, SETTINGS), "coverage")
    assert not gate.passed
    assert ITEMS[7] in gate.detail


async def test_forcing_moves_the_pointer_and_leaves_a_trace(
    redis: Redis, ranker: Bundle, tmp_path: Path
) -> None:
    generations = Generations(redis)
    one = await published(redis, ranker, OLD, ITEMS)
    await generations.activate("home", one.id, trace=Trace("ann"))
    space = make_space()
    two = await published(redis, for_space(ranker, space, tmp_path / "two"), space, ITEMS[:100])
    checked = await check_generation(redis, "home", two.id, SETTINGS)
    await activate_checked(redis, "home", checked, by="bob", force="the old encoder leaks")
    await generations.roll_back("home", trace=Trace("cleo"))
    back, forced, first = await read_log(redis, "home")
    assert (first.action, first.left, first.to, first.revision) == ("activate", None, one.id, 1)
    assert first.trace == Trace("ann")
    assert (forced.left, forced.to, forced.revision) == (one.id, two.id, 2)
    assert forced.trace == Trace("bob", checked.gates, "the old encoder leaks")
    assert [g.passed for g in forced.trace.gates if g.gate == "coverage"] == [False]
    assert (back.action, back.left, back.to, back.revision) == ("roll back", two.id, one.id, 3)
    assert back.trace.by == "cleo"
    assert first.at_ms <= forced.at_ms <= back.at_ms
    assert await read_log(redis, "home", 1) == [back]
    assert await read_log(redis, "elsewhere") == []


async def test_what_moved_while_the_gates_were_asked_is_not_overwritten(redis: Redis, ranker: Bundle) -> None:
    one = await published(redis, ranker, OLD, ITEMS)
    other = dataclasses.replace(one, created_ms=77)
    await Generations(redis).publish(other)
    checked = await check_generation(redis, "home", one.id, SETTINGS)
    await Generations(redis).activate("home", other.id)
    with pytest.raises(Conflict, match="at revision 1, expected 0"):
        await activate_checked(redis, "home", checked, by="ann")
    assert [line.to for line in await read_log(redis, "home")] == [other.id]


async def test_the_log_is_bounded_and_keeps_no_line_of_a_move_that_was_refused(
    redis: Redis, ranker: Bundle
) -> None:
    generations = Generations(redis)
    one = await published(redis, ranker, OLD, ITEMS)
    other = dataclasses.replace(one, created_ms=77)
    await generations.publish(other)
    scene = "{home}\0"
    for n in range(LINES + 5):
        await generations.activate(scene, (one, other)[n % 2].id)
    with pytest.raises(NotFound):
        await generations.activate(scene, "g-none")
    lines = await read_log(redis, scene)
    assert [line.revision for line in lines] == list(range(LINES + 5, 5, -1))
    assert await redis.keys("rc2:*activations*") == [keys.activations(scene)]


def test_log_lines_are_versioned_and_traces_bounded() -> None:
    gate = GateResult("coverage", False, 0.5, 0.99, "100 of 200")
    line = LogLine(5, "activate", None, "g1", 1, Trace("ann", (gate,), "why"))
    assert parse_line(5, line.to_bytes()) == line
    assert json.loads(line.to_bytes())["version"] == 1
    with pytest.raises(UnknownVersion, match="activation log"):
        parse_line(5, line.to_bytes().replace(b'"version":1', b'"version":2'))
    for broken in (b"", b"[]", b'{"version":1}', b'{"version":1,"gates":[{"x":1}]}'):
        with pytest.raises(InvalidInput, match="activation log"):
            parse_line(5, broken)
    for reason in ("", "  ", "x" * 1_001):
        with pytest.raises(InvalidInput, match="reason"):
            Trace("ann", (), reason)
    with pytest.raises(InvalidInput, match="by"):
        Trace("x" * 201)


async def test_differences_name_what_differs(redis: Redis, ranker: Bundle, tmp_path: Path) -> None:
    space = make_space(dim=16)
    one = await published(redis, ranker, OLD, ITEMS)
    two = await published(redis, for_space(ranker, space, tmp_path / "two"), space, ITEMS[:150])
    facts = await facts_of(redis, one)
    assert differences(facts, facts) == []
    found = {d.fact: (d.first, d.second) for d in differences(facts, await facts_of(redis, two))}
    assert found["space.id"] == (OLD.id, space.id)
    assert found["space.modalities.text.dim"] == (8, 16)
    assert found["space.live"] == (200, 150)
    assert found["ranker.digest"] == (one.ranker_digest, two.ranker_digest)
    assert "id_table.name" not in found
    assert "ranker.schema.history_length" not in found
    assert facts["ranker.schema.history_length"] == 16
    assert facts["ranker.tolerance"] == 1e-4
    assert facts["id_table.ready"] is True
    shutil.rmtree(two.ranker_uri)
    assert "no bundle" in (await facts_of(redis, two))["ranker.bundle"]
