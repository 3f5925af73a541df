from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from contracts.errors import BrokenBundle, InvalidInput
from tests.training import tiny
from training.data.interactions import TEST, VAL
from training.evaluation import predict
from training.int8_gate import Int8Gate, check_int8
from training.loop import TrainedRanker, TrainingConfig
from training.metrics import auc
from training.recipes.ranker import RankerRun, TableView, train_rankers

SAMPLES = tiny.samples()


@cache
def run() -> RankerRun:
    everything = TableView(tiny.records(), np.ones(tiny.ITEMS, bool))
    config = TrainingConfig(epochs=2, batch_rows=60, threads=1)
    return train_rankers(
        SAMPLES,
        tiny.SPACE,
        everything,
        everything,
        tiny.NEW,
        models=("din",),
        config=config,
        id_dim=4,
        history_length=8,
    )


def trained() -> TrainedRanker:
    return run().results["din"].trained


def coarse() -> TrainedRanker:
    """One huge column in every ID vector: int8 has nothing left for the others."""
    ids = trained().ids
    vectors = ids.vectors.copy()
    vectors[1:, 0] = 50 * np.sign(vectors[1:, 0])
    return replace(trained(), ids=replace(ids, vectors=vectors))


def test_the_change_is_that_of_the_validation_split() -> None:
    val = np.flatnonzero(SAMPLES.splits == VAL)
    mask = SAMPLES.candidate_mask[val]
    labels = SAMPLES.labels[val][mask]
    full, served = (
        auc(labels, predict(coarse().model, SAMPLES, val, run().items, ids)[mask])
        for ids in (coarse().ids, coarse().ids.quantised())
    )
    change = check_int8(coarse(), SAMPLES, run().items, Int8Gate())
    assert full != served
    assert (change.auc_float, change.auc_int8, change.change) == (full, served, served - full)
    assert change.pairs == int(labels.sum()) * int((labels == 0).sum())
    assert not change.gated  # 48 positives: chance alone moves it by about as much as the gate


def test_the_gate_holds_where_there_are_enough_pairs() -> None:
    pairs = check_int8(trained(), SAMPLES, run().items, Int8Gate()).pairs
    change = check_int8(trained(), SAMPLES, run().items, Int8Gate(most_change=0.5, least_pairs=pairs))
    assert change.gated
    with pytest.raises(BrokenBundle, match=r"validation AUC by [+-][0-9.e-]+, from 0\.\d+ to 0\.\d+ over"):
        check_int8(coarse(), SAMPLES, run().items, Int8Gate(least_pairs=pairs))
    assert not check_int8(coarse(), SAMPLES, run().items, Int8Gate(least_pairs=pairs + 1)).gated


def test_a_split_without_both_classes_has_no_auc() -> None:
    only = replace(SAMPLES, splits=np.where(SAMPLES.splits == VAL, TEST, SAMPLES.splits).astype(np.int8))
    change = check_int8(trained(), only, run().items, Int8Gate(least_pairs=1))
    assert tuple(change) == (None, None, None, 0, False)
    assert change.to_json(Int8Gate())["most_change"] == 5e-4


@pytest.mark.parametrize("wrong", [{"most_change": -1e-9}, {"most_change": np.nan}, {"least_pairs": 0}])
def test_a_gate_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=f"int8.{next(iter(wrong))}"):
        Int8Gate(**wrong)  # type: ignore[arg-type]
