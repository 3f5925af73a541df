"""The shelf as a state machine: whatever is done in whatever order, a model in Python says the same.

Invariants of ARCHITECTURE.md: 1 (what a pinned generation reads is of it alone), 3 (a sequence never goes
back, a sealed table never changes), 6 (spaces never mix), 8 (unknown versions are refused).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from contracts.codec import ID_INT8, stored_bytes
from contracts.errors import Conflict, NotFound, RepcenterError, SpaceMismatch, UnknownVersion
from contracts.manifest import Generation, IdTable
from contracts.space import Modality, Space
from contracts.window import Window
from param_server import keys
from param_server.collection import collect
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.parts import Part
from param_server.scene_pointer import ScenePointer
from param_server.settings import GenerationSettings, StoreSettings
from param_server.store import Store
from tests.param_server.samples import (
    make_generation,
    make_id_rows,
    make_records,
    make_tombstones,
    seal_ranker,
)

T = TypeVar("T")
ITEMS = ["a", "{b}", "c\0"]
SPACES = [
    Space(digit * 64, tuple(Modality(n, 2) for n in ("text", "image", "fused")), buckets=2) for digit in "123"
]
TABLES = [
    IdTable("full-0", ID_INT8, 16, 2),
    IdTable("full-1", ID_INT8, 16, 3),
    IdTable("over-0", ID_INT8, 16, 1, "full-0"),
]
SCENES = ["home", "{search}\0"]
space_numbers = st.integers(0, len(SPACES) - 1)
table_numbers = st.integers(0, len(TABLES) - 1)
items = st.sampled_from(ITEMS)
sequences = st.sampled_from([0, 1, 2, 3, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**64 - 1])


def rows_of(table: IdTable) -> list[bytes]:
    """What a table holds of ITEMS' first, for ever."""
    return [row.tobytes() for row in make_id_rows(table.rows, seed=TABLES.index(table))]


class Shelf(RuleBasedStateMachine):
    """url: of a real server that is this machine's; folder: of ranker bundles, sealed once."""

    reads = 0  # of pinned generations, in all runs

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = folder
        self.redis = cast(Redis, connect(url, StoreSettings()))
        self.run(cast(Any, self.redis.flushall()))
        self.store, self.generations = Store(self.redis), Generations(self.redis)
        self.records: dict[int, dict[str, tuple[int, bytes]]] = {}  # of the spaces that there are
        self.tables: set[int] = set()
        self.published: dict[str, tuple[int, int]] = {}
        self.pointers: dict[str, ScenePointer] = {}
        self.going: set[Part] = set()  # marked by a collection that was stopped
        self.water = 0

    def run(self, do: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(do)

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    def refused(self, do: Coroutine[Any, Any, object], *kinds: type[RepcenterError]) -> None:
        with pytest.raises(kinds):
            self.run(do)

    def generation(self, space: int, table: int, ranker_of: int | None = None) -> Generation:
        of, rows = SPACES[space if ranker_of is None else ranker_of], TABLES[table]
        path = self.folder / f"{of.id}-{rows.name}"
        bundle = _BUNDLES.get(path) or seal_ranker(path, of, rows.rows, rows.base)
        _BUNDLES[path] = bundle
        return make_generation(bundle, SPACES[space], rows, created_ms=10 * space + table)

    @initialize(serving=st.booleans())
    def begin(self, serving: bool) -> None:
        """Half of the runs begin with a scene that serves, so that they go deeper."""
        if serving:
            self.create_space(0)
            self.load_table(0)
            self.publish(0, 0)
            self.activate("home", 0, 0)

    # Records

    @rule(n=space_numbers)
    def create_space(self, n: int) -> None:
        if Part("space", SPACES[n].id) in self.going:
            self.refused(self.store.create_space(SPACES[n]), Conflict)
            return
        self.run(self.store.create_space(SPACES[n]))
        self.records.setdefault(n, {})

    @rule(
        n=space_numbers,
        writes=st.dictionaries(items, st.tuples(sequences, st.booleans(), st.integers(0, 1)), min_size=1),
    )
    def commit(self, n: int, writes: dict[str, tuple[int, bool, int]]) -> None:
        space, model = SPACES[n], self.records.get(n)
        rows = [
            make_tombstones(space, [sequence]) if delete else make_records(space, [sequence], seed)
            for sequence, delete, seed in writes.values()
        ]
        window = Window(space, list(writes), np.concatenate(rows), 0)
        if model is None:
            self.refused(self.store.commit_window(window), NotFound, Conflict)
            return
        expected = []
        for item, value in zip(writes, stored_bytes(window.records), strict=True):
            sequence = writes[item][0]
            newer = item not in model or sequence > model[item][0]
            expected.append(newer or model[item] == (sequence, value))
            if newer:
                model[item] = (sequence, value)
                self.water = max(self.water, sequence)
        assert self.run(self.store.commit_window(window)).tolist() == expected

    @rule(n=space_numbers)
    def get(self, n: int) -> None:
        got = self.run(self.store.fetch(SPACES[n], None, ITEMS))
        self.same_records(n, got.found, got.records)

    def same_records(self, n: int, found: Any, records: Any) -> None:
        for i, item in enumerate(ITEMS):
            _, value = self.records.get(n, {}).get(item, (0, b""))
            live = len(value) == SPACES[n].dtype.itemsize
            assert found[i] == live
            assert not live or records[i].tobytes() == value

    @precondition(lambda self: self.records)
    @rule(n=space_numbers, item=items)
    def plant_an_unknown_record(self, n: int, item: str) -> None:
        """It is refused by readers and writers, and what it stood in for comes back as it was."""
        if n not in self.records:
            return
        space, family = SPACES[n], keys.records(SPACES[n].id, SPACES[n].buckets)
        key = cast(str, family.key_of(item.encode()))
        before = self.run(cast(Any, self.redis.hget(key, item)))
        self.run(cast(Any, self.redis.hset(key, item, b"\x07\x01" + bytes(space.dtype.itemsize - 2))))
        self.refused(self.store.fetch(space, None, [item]), UnknownVersion)
        window = Window(space, [item], make_records(space, [2**64 - 1]), 0)
        self.refused(self.store.commit_window(window), UnknownVersion)
        if before is None:
            self.run(cast(Any, self.redis.hdel(key, item)))
        else:
            self.run(cast(Any, self.redis.hset(key, item, before)))

    # ID tables

    @rule(n=table_numbers)
    def load_table(self, n: int) -> None:
        table = TABLES[n]

        async def load() -> None:
            await self.store.load_id_rows(table, ITEMS[: table.rows], make_id_rows(table.rows, seed=n))
            await self.store.seal_id_table(table)

        if Part("id_table", table.name) in self.going:
            self.refused(load(), Conflict)
        elif table.base is not None and 0 not in self.tables:
            self.refused(self.store.seal_id_table(table), Conflict)
        else:
            self.run(load())
            self.tables.add(n)

    @precondition(lambda self: self.tables)
    @rule(n=table_numbers, seed=st.integers(7, 9))
    def change_a_sealed_table(self, n: int, seed: int) -> None:
        if n in self.tables:
            table = TABLES[n]
            changed = make_id_rows(table.rows, seed=seed)
            self.refused(self.store.load_id_rows(table, ITEMS[: table.rows], changed), Conflict)
            wider = dataclasses.replace(table, rows=table.rows + 1)
            self.refused(self.store.load_id_rows(wider, ITEMS[:1], make_id_rows(1, seed=n)), Conflict)

    # Generations

    @rule(space=space_numbers, table=table_numbers)
    def publish(self, space: int, table: int) -> None:
        generation = self.generation(space, table)
        if space not in self.records or table not in self.tables:
            self.refused(self.generations.publish(generation), NotFound, Conflict)
            return
        self.run(self.generations.publish(generation))
        self.published[generation.id] = (space, table)

    @rule(space=space_numbers, table=table_numbers, other=space_numbers)
    def publish_a_ranker_of_another_space(self, space: int, table: int, other: int) -> None:
        if other != space:
            self.refused(self.generations.publish(self.generation(space, table, other)), SpaceMismatch)

    @rule(scene=st.sampled_from(SCENES), space=space_numbers, table=table_numbers)
    def activate(self, scene: str, space: int, table: int) -> None:
        generation_id, old = self.generation(space, table).id, self.pointers.get(scene)
        if generation_id not in self.published:
            self.refused(self.generations.activate(scene, generation_id), NotFound)
            return
        if old is None:
            new = ScenePointer(generation_id, 1)
        elif old.generation_id == generation_id:
            new = old
        else:
            previous = (old.generation_id, *old.previous)[:10]
            new = ScenePointer(generation_id, old.revision + 1, previous)
        stale = (old.revision if old else 0) + 1
        self.refused(self.generations.activate(scene, generation_id, expected_revision=stale), Conflict)
        assert self.run(self.generations.activate(scene, generation_id)) == new
        self.pointers[scene] = new

    @rule(scene=st.sampled_from(SCENES))
    def roll_back(self, scene: str) -> None:
        old = self.pointers.get(scene)
        if old is None or not old.previous:
            self.refused(self.generations.roll_back(scene), NotFound)
            return
        new = ScenePointer(old.previous[0], old.revision + 1, old.previous[1:])
        assert self.run(self.generations.roll_back(scene)) == new
        self.pointers[scene] = new

    @precondition(lambda self: self.pointers)
    @rule(scene=st.sampled_from(SCENES))
    def read_what_a_scene_serves(self, scene: str) -> None:
        """As a scorer does: pinned once, then one fetch. Both halves are of this generation alone."""
        pointer = self.pointers.get(scene)
        if pointer is None:
            return
        pinned = self.run(self.generations.get(pointer.generation_id))
        space, table = self.published[pointer.generation_id]
        assert (pinned.space, pinned.id_table) == (SPACES[space], TABLES[table])
        got = self.run(self.store.fetch(pinned.space, pinned.id_table, ITEMS))
        self.same_records(space, got.found, got.records)
        layers = [rows_of(TABLES[table]), *([rows_of(TABLES[0])] if TABLES[table].base else [])]
        Shelf.reads += 1
        for i in range(len(ITEMS)):
            expected = next((rows[i] for rows in layers if i < len(rows)), None)
            assert got.id_found[i] == (expected is not None)
            assert expected is None or got.id_rows[i].tobytes() == expected

    @precondition(lambda self: self.published)
    @rule()
    def plant_an_unknown_manifest(self) -> None:
        """Who cannot read who needs what removes nothing."""
        name = cast(str, keys.generations())
        self.run(cast(Any, self.redis.hset(name, "g-later", '{"version":99}')))
        self.refused(self.collect(0), UnknownVersion)
        self.refused(self.generations.get("g-later"), UnknownVersion)
        self.run(cast(Any, self.redis.hdel(name, "g-later")))

    # Collection

    def collect(self, keep: int, progress: Callable[..., None] | None = None) -> Coroutine[Any, Any, Any]:
        at_once = GenerationSettings(collect_grace_s=0, collect_unpublished_s=0, collect_keep=keep)
        return collect(self.redis, at_once, settle_s=0, lease_s=1, progress=progress)

    def take(self, keep: int) -> set[Part]:
        """What the model loses, generations apart."""
        stay = {p.generation_id for p in self.pointers.values()}
        stay |= {g for p in self.pointers.values() for g in p.previous[:keep]}
        self.published = {g: of for g, of in self.published.items() if g in stay}
        self.pointers = {
            scene: dataclasses.replace(p, previous=tuple(g for g in p.previous if g in stay))
            for scene, p in self.pointers.items()
        }
        spaces = {space for space, _ in self.published.values()}
        tables = {table for _, table in self.published.values()}
        tables |= {0 for table in tables if TABLES[table].base}
        gone = {Part("space", SPACES[n].id) for n in self.records if n not in spaces}
        gone |= {Part("id_table", TABLES[n].name) for n in self.tables if n not in tables}
        gone |= {Part("id_table", name) for name in self.open_tables() if self.number(name) not in tables}
        self.records = {n: rows for n, rows in self.records.items() if n in spaces}
        self.tables &= tables
        return gone

    def open_tables(self) -> list[str]:
        """Described, not sealed: an overlay that could not be."""
        return [name.decode() for name in self.run(cast(Any, self.redis.hkeys(cast(str, keys.id_tables()))))]

    @staticmethod
    def number(name: str) -> int:
        return next(n for n, table in enumerate(TABLES) if table.name == name)

    @rule(keep=st.integers(0, 2))
    def collect_all(self, keep: int) -> None:
        gone, resumed = self.take(keep), self.going
        report = self.run(self.collect(keep))
        assert {p for p in report.parts if p.kind != "generation"} == gone | resumed
        assert set(report.resumed) == resumed
        self.going = set()
        assert self.run(cast(Any, self.redis.hlen(cast(str, keys.collecting())))) == 0

    @rule()
    def collect_and_be_stopped(self) -> None:
        """At the first rows that go: everything is marked, nothing is finished."""

        class Stopped(Exception):
            pass

        def stop(*_: object) -> None:
            raise Stopped

        going = self.going | self.take(0)
        if going:
            with pytest.raises(Stopped):
                self.run(self.collect(0, stop))
        else:
            self.run(self.collect(0, stop))
        self.going = going

    # Always

    @invariant()
    def what_is_published_is_what_the_model_says(self) -> None:
        async def read() -> tuple[Any, ...]:
            listed = await self.generations.list()
            for generation in listed:
                assert await self.store.space(generation.space.id) == generation.space
                assert await self.store.id_table_ready(generation.id_table)
            return listed, await self.generations.scenes(), await self.store.spaces()

        listed, scenes, spaces = self.run(read())
        assert {g.id for g in listed} == set(self.published)
        assert scenes == self.pointers
        assert {s.id for s in spaces} == {SPACES[n].id for n in self.records}

    @invariant()
    def no_sequence_goes_back(self) -> None:
        for n, model in self.records.items():
            stored = self.run(self.store.sequences(SPACES[n], ITEMS))
            assert stored.tolist() == [model.get(item, (0, b""))[0] for item in ITEMS]
        assert self.run(self.store.high_water()) == self.water


_BUNDLES: dict[Path, Any] = {}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Thousands of small writes: durability is another test's."""
    with EmbeddedServer.start(tmp_path_factory.mktemp("shelf"), appendfsync="no") as running:
        yield running


def run_machine(server: EmbeddedServer, folder: Path, examples: int, steps: int) -> None:
    before = Shelf.reads
    run_state_machine_as_test(
        cast(type[RuleBasedStateMachine], lambda: Shelf(server.url, folder)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),  # a failure prints its steps: shrinking takes minutes
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
    assert Shelf.reads > before


def test_whatever_is_done_the_model_says_the_same(own_server: EmbeddedServer, tmp_path: Path) -> None:
    run_machine(own_server, tmp_path, examples=15, steps=30)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_whatever_is_done_for_long_the_model_says_the_same(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    run_machine(own_server, tmp_path, examples=150, steps=60)
