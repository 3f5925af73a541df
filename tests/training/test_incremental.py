"""Day 1, then day 2, in a world whose tastes drift: what was liked yesterday is passed over today."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle, open_bundle
from contracts.errors import Conflict, InvalidInput, SpaceMismatch
from contracts.manifest import IdTable
from contracts.ranker_spec import RankerSpec, ranker_spec_from_json
from contracts.schema import FeatureSchema
from param_server.id_rows import read_id_rows
from param_server.store import Store
from tests.training import tiny
from training.data.interactions import TEST, TRAIN, VAL
from training.data.samples import Samples
from training.evaluation import evaluate, predict
from training.export import export_ranker
from training.item_table import ItemTable, item_table
from training.loop import TrainingConfig, train_ranker
from training.models.ranker import Ranker
from training.recipes.incremental import IncrementalRun, open_base, since, train_incrementally
from training.recipes.ranker import new_ranker
from training.recipes.tables import TableView
from training.vocabularies import fit_vocabularies
from training.weights import read_weights

DAY = 86_400
NUMBERS = np.arange(1, tiny.ITEMS + 1)
LATE = NUMBERS > tiny.ITEMS - 8  # items that day 1 does not know
IDLE = NUMBERS <= 10  # items that day 2 does not show
RECORDS = tiny.records()
TABLE = TableView(RECORDS, np.ones(tiny.ITEMS, dtype=bool))
CONFIG = TrainingConfig(epochs=20, batch_rows=60, threads=1, patience=20, id_dropout=0.0)
BASE_TABLE = "items-1"


def day(number: int, seed: int) -> Samples:
    """Requests of one liked item and two others. Day 1 likes even items, day 2 odd ones."""
    rng = np.random.default_rng(seed)
    drawn = tiny.samples(seed)
    shown = ~LATE if number == 1 else ~IDLE
    good = shown & ((0 if number == 1 else 1) == NUMBERS % 2)
    candidates = np.zeros_like(drawn.candidates)
    for row in candidates:
        row[0] = rng.choice(NUMBERS[good])
        row[1:] = rng.choice(NUMBERS[shown & ~good], 2, replace=False)
    labels = np.zeros_like(drawn.labels)
    labels[:, 0] = 1
    order = rng.permuted(np.tile(np.arange(3), (len(labels), 1)), axis=1)
    liked = np.where(IDLE[drawn.liked - 1] | LATE[drawn.liked - 1], 20, drawn.liked)
    return dataclasses.replace(
        drawn,
        candidates=np.take_along_axis(candidates, order, 1),
        labels=np.take_along_axis(labels, order, 1),
        candidate_mask=np.ones(candidates.shape, dtype=bool),
        liked=liked.astype(np.int32),
        timestamps=np.arange(len(labels), dtype=np.int64) + number * DAY,
    )


def join(first: Samples, second: Samples) -> Samples:
    """One log of both days; the second day's histories reach into the first."""
    names = ("candidates", "labels", "candidate_mask", "users", "splits", "timestamps", "requests")
    both: dict[str, Any] = {
        n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in (*names, "starts", "ends")
    }
    return dataclasses.replace(first, **both)


def auc_of(model: Ranker, ids: object, samples: Samples, items: ItemTable) -> float:
    chosen = np.flatnonzero(samples.splits == TEST)
    logits = predict(model, samples, chosen, items, ids)  # type: ignore[arg-type]
    value = evaluate(logits, samples, chosen, items.new)["all"]["auc"]
    assert value is not None
    return value


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


class World:
    """Day 1's ranker, sealed; day 2's training from it, sealed whole and as an overlay."""

    def __init__(self, directory: Path) -> None:
        new = LATE.copy()
        self.schema = FeatureSchema(8, 4, fit_vocabularies(RECORDS[~new], tiny.SPACE.attributes))
        self.first = day(1, 0)
        items = item_table(RECORDS, ~new, new, self.schema)
        model = new_ranker("din", tiny.SPACE, self.schema, 0)
        self.yesterday = train_ranker(model, self.first, items, CONFIG)
        self.base = export_ranker(
            self.yesterday, items, self.first, tiny.SPACE, self.schema, tiny.ITEM_IDS, directory / "base"
        )
        self.before = bytes_of(self.base.path)
        self.samples = since(join(self.first, day(2, 1)), 2 * DAY)
        self.run = self.train(self.base, self.samples)
        self.full, self.overlay = (
            self.seal(self.run, directory / n, n == "overlay") for n in ("full", "overlay")
        )

    def train(self, base: Bundle, samples: Samples, **changes: object) -> IncrementalRun:
        arguments: dict[str, object] = {"space": tiny.SPACE, "item_ids": tiny.ITEM_IDS} | changes
        return train_incrementally(
            open_base(base, BASE_TABLE),
            samples,
            table=TABLE,
            serving_table=TABLE,
            new=np.zeros(tiny.ITEMS, dtype=bool),
            config=dataclasses.replace(CONFIG, learning_rate=1e-2),
            **arguments,  # type: ignore[arg-type]
        )

    def seal(self, run: IncrementalRun, directory: Path, as_overlay: bool) -> Bundle:
        overlay = run.overlay if as_overlay else None
        rest = (tiny.SPACE, self.schema, run.item_ids, directory)
        return export_ranker(run.trained, run.items, run.samples, *rest, overlay=overlay)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("incremental"))


def spec_of(bundle: Bundle) -> RankerSpec:
    return ranker_spec_from_json(dict(bundle.manifest.content))


def rows_of(bundle: Bundle) -> dict[str, bytes]:
    spec = spec_of(bundle)
    ids, rows = read_id_rows(bundle.file(spec.id_rows), spec.id_codec, spec.schema.id_dim)
    return dict(zip(ids, [row.tobytes() for row in rows], strict=True))


def test_training_on_is_better_on_the_new_day_than_yesterdays_ranker(world: World) -> None:
    stale = auc_of(world.yesterday.model, world.yesterday.ids, world.samples, world.run.items)
    fresh = auc_of(world.run.trained.model, world.run.trained.ids, world.samples, world.run.items)
    assert auc_of(world.yesterday.model, world.yesterday.ids, world.first, world.run.items) > 0.8
    assert fresh > 0.8 > 0.5 > stale


def test_only_the_new_day_is_trained_on(world: World) -> None:
    earlier = world.samples.timestamps < 2 * DAY
    assert set(world.samples.splits[earlier].tolist()) == {-1}
    train, val = (world.samples.timestamps[world.samples.splits == s] for s in (TRAIN, VAL))
    assert train.max() < val.min()
    assert len(val) == pytest.approx(0.1 * (len(train) + len(val)), abs=1)
    changed = world.run.overlay.changed
    assert not changed[1:][IDLE].any()  # rows that the day did not touch keep their bytes
    assert changed[1:][LATE].all()
    assert changed[1:].sum() < tiny.ITEMS


def test_evidence_adds_up_over_days(world: World) -> None:
    one, two = (np.expm1(t.ids.evidence[1:]) for t in (world.yesterday, world.run.trained))
    assert np.allclose(two[IDLE], one[IDLE])
    assert (two[~IDLE] > one[~IDLE]).all()


def test_the_overlay_over_its_base_is_the_full_table_row_for_row(world: World) -> None:
    base, over, full = (rows_of(b) for b in (world.base, world.overlay, world.full))
    assert base | over == full
    assert 0 < len(over) < len(full)
    assert all(base.get(item_id) != row for item_id, row in over.items())
    assert (spec_of(world.overlay).id_base, spec_of(world.full).id_base) == (BASE_TABLE, None)
    assert spec_of(world.overlay).id_row_count == len(over)


def test_the_base_is_only_read(world: World) -> None:
    assert bytes_of(world.base.path) == world.before
    open_bundle(str(world.base.path), world.base.digest)


def test_the_sealed_weights_are_the_trained_ones(world: World) -> None:
    weights = read_weights(world.overlay.file("weights.safetensors"))
    trained = world.run.trained
    rows = [tiny.ITEM_IDS.index(i) + 1 for i in weights.item_ids]
    assert np.array_equal(weights.vectors, trained.ids.vectors[rows])
    assert np.array_equal(weights.evidence, trained.ids.evidence[rows])
    assert set(rows) == set(np.flatnonzero(trained.ids.known).tolist())
    for name, tensor in trained.model.state_dict().items():
        assert weights.model[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_a_third_day_lies_over_the_same_full_table(world: World, tmp_path: Path) -> None:
    """Trained from an overlay, of a catalogue that has lost the items of which the base alone knows."""
    keep = tiny.ITEMS - 4
    samples = dataclasses.replace(world.samples, timestamps=world.samples.timestamps + DAY)
    gone = samples.candidates > keep
    samples = dataclasses.replace(
        samples,
        candidates=np.where(gone, 30, samples.candidates).astype(np.int32),
        liked=np.minimum(samples.liked, keep).astype(np.int32),
    )
    table = TableView(RECORDS[:keep], np.ones(keep, dtype=bool))
    run = train_incrementally(
        open_base(world.overlay, BASE_TABLE),
        samples,
        tiny.SPACE,
        table,
        table,
        np.zeros(keep, dtype=bool),
        tiny.ITEM_IDS[:keep],
        dataclasses.replace(CONFIG, epochs=1),
    )
    assert set(run.item_ids) == set(tiny.ITEM_IDS)
    over, full = (rows_of(world.seal(run, tmp_path / n, n == "over")) for n in ("over", "full"))
    assert rows_of(world.base) | over == full
    lost = tiny.ITEM_IDS[keep:]
    assert {i: full[i] for i in lost} == {i: rows_of(world.full)[i] for i in lost}


async def test_the_shelf_reads_the_overlay_as_the_full_table(world: World, redis: Redis) -> None:
    store = Store(redis)

    async def load(bundle: Bundle, name: str, base: str | None = None) -> IdTable:
        spec = spec_of(bundle)
        ids, rows = read_id_rows(bundle.file(spec.id_rows), spec.id_codec, spec.schema.id_dim)
        table = IdTable(name, spec.id_codec, spec.schema.id_dim, spec.id_row_count, base)
        await store.load_id_rows(table, ids, rows)
        await store.seal_id_table(table)
        return table

    await load(world.base, BASE_TABLE)
    full = await load(world.full, "items-2")
    overlay = await load(world.overlay, "items-2-over-1", BASE_TABLE)
    got, wanted = [await store.fetch(tiny.SPACE, t, tiny.ITEM_IDS) for t in (overlay, full)]
    assert got.id_rows.tobytes() == wanted.id_rows.tobytes()
    assert got.id_found.all()


def test_what_cannot_be_trained_on_is_refused(world: World) -> None:
    with pytest.raises(Conflict, match="overlay of 'items-1', not of 'items-9'"):
        open_base(world.overlay, "items-9")
    with pytest.raises(SpaceMismatch):
        world.train(world.base, world.samples, space=dataclasses.replace(tiny.SPACE, encoder_digest="1" * 64))
    with pytest.raises(InvalidInput, match="begin_s"):
        since(world.samples, 9 * DAY)
