from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from training.data.interactions import TEST
from training.data.planted_order import PlantedOrder, PlantedOrderConfig, planted_order
from training.evaluation import evaluate, predict
from training.item_table import item_table
from training.loop import TrainingConfig, train_ranker
from training.models.config import ContentConfig, RankerConfig
from training.models.dmae import DmaeConfig
from training.models.ranker import Ranker
from training.models.similarity import side_by_side
from training.models.simtier import SimTierConfig

WORLD = PlantedOrderConfig()
LADDER: dict[str, tuple[ContentConfig, ...]] = {
    "id": (),
    "simtier": (SimTierConfig(),),
    "dmae": (DmaeConfig(),),
}


def _auc_new(world: PlantedOrder, content: tuple[ContentConfig, ...]) -> float:
    """A ranker's test AUC on new items, trained for three epochs."""
    items = item_table(world.records, np.ones(len(world.new), bool), world.new, world.schema)
    config = RankerConfig(
        modalities=side_by_side((m.name, m.dim) for m in world.space.modalities),
        history_length=world.schema.history_length,
        content=content,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Ranker(config)
    training = TrainingConfig(epochs=3, batch_rows=256, patience=9, threads=1)
    trained = train_ranker(model, world.samples, items, training)
    chosen = np.flatnonzero(world.samples.splits == TEST)
    report = evaluate(
        predict(model, world.samples, chosen, items, trained.ids), world.samples, chosen, items.new
    )
    auc = report["new"]["auc"]
    assert isinstance(auc, float)
    return auc


def test_the_ladder_finds_what_each_rung_can_see() -> None:
    """On new items an ID is blind, a histogram counts, and only DMAE sees when."""
    world = planted_order(WORLD)
    auc = {name: _auc_new(world, content) for name, content in LADDER.items()}
    assert auc["id"] < 0.55, auc
    assert auc["simtier"] > auc["id"] + 0.08, auc
    assert auc["dmae"] > auc["simtier"] + 0.08, auc


def test_the_order_ends_with_the_signal() -> None:
    """Without `when`, DMAE is no longer ahead; without `count` too, nobody is."""
    timeless = planted_order(dataclasses.replace(WORLD, when=0.0))
    simtier, dmae = (_auc_new(timeless, LADDER[name]) for name in ("simtier", "dmae"))
    assert simtier > 0.6
    assert dmae < simtier + 0.02
    silent = planted_order(dataclasses.replace(WORLD, when=0.0, count=0.0))
    assert abs(_auc_new(silent, LADDER["simtier"]) - 0.5) < 0.06


def test_new_items_are_candidates_of_the_test_split_alone() -> None:
    world = planted_order(WORLD)
    early = world.samples.candidates[world.samples.splits != TEST]
    assert not world.new[early - 1].any()
    assert world.new[world.samples.candidates[world.samples.splits == TEST] - 1].mean() > 0.1


def test_when_leaves_no_trace_in_the_counts() -> None:
    """The number of similar behaviours says nothing of a world whose clicks depend on `when` alone."""
    world = planted_order(dataclasses.replace(WORLD, item=0.0, count=0.0, when=3.0))
    codes = world.records["codes"].astype(np.float32)
    samples = world.samples
    histories = samples.liked.reshape(len(samples), -1) - 1
    for part in (slice(0, 16), slice(16, 32)):
        unit = codes[:, part] / np.linalg.norm(codes[:, part], axis=1, keepdims=True)
        alike = np.einsum("rnd,rtd->rnt", unit[samples.candidates - 1], unit[histories]) > 0.8
        count, recent = alike.sum(2), alike[:, :, alike.shape[2] // 2 :].sum(2)
        assert abs(np.corrcoef(count.ravel(), samples.labels.ravel())[0, 1]) < 0.03
        assert abs(np.corrcoef(recent.ravel(), samples.labels.ravel())[0, 1]) > 0.2


def test_equal_configs_give_equal_worlds() -> None:
    one, two = planted_order(WORLD), planted_order(WORLD)
    assert np.array_equal(one.samples.labels, two.samples.labels)
    assert np.array_equal(one.records, two.records)


@pytest.mark.parametrize(("field", "value"), [("requests", 0), ("kinds", 0), ("history_length", 1)])
def test_bad_configs_name_the_field(field: str, value: int) -> None:
    with pytest.raises(InvalidInput, match=field):
        dataclasses.replace(WORLD, **{field: value})
