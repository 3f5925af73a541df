from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest

from contracts.codec import Rows, encode_records
from contracts.errors import InvalidInput
from tests.training import tiny
from training.data.interactions import TRAIN
from training.item_table import ItemTable, item_table
from training.loop import TrainingConfig
from training.models.dmae import DmaeConfig
from training.models.similarity import side_by_side
from training.recipes.ranker import RankerRun, TableView, train_rankers
from training.similarity_calibration import (
    FewBuckets,
    bucket_use,
    fit_similarity_calibration,
    similarities,
    warn_of_few_buckets,
)

HISTORY = 8
SAMPLES = tiny.samples()
MODALITIES = side_by_side((m.name, m.dim) for m in tiny.SPACE.modalities)
NAMES = ("text", "image")


def anisotropic(seed: int = 0) -> Rows:
    """(ITEMS,) records of one common direction and a tenth of taste: cosines in .85 to .95, for the most."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(tiny.KINDS, tiny.DIM))
    vectors = []
    for _ in tiny.SPACE.modalities:
        own = tiny.unit(centres[tiny.KIND] + 1.2 * rng.normal(size=(tiny.ITEMS, tiny.DIM)))
        common = tiny.unit(rng.normal(size=(1, tiny.DIM)))
        own -= (own @ common.T) * common
        mixed = np.sqrt(0.9) * common + np.sqrt(0.1) * tiny.unit(own.astype(np.float64))
        vectors.append(mixed.astype(np.float32))
    vectors[1][3:5] = 0
    return encode_records(
        vectors, np.ones(tiny.ITEMS, dtype=np.uint64), np.array(tiny.records()["attributes"])
    )


@cache
def trained(calibrate: bool, seed: int = 0) -> RankerRun:
    records = anisotropic(seed)
    everything = TableView(records, np.ones(tiny.ITEMS, bool))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewBuckets)
        return train_rankers(
            tiny.samples(seed),
            tiny.SPACE,
            TableView(records, ~tiny.NEW),
            everything,
            tiny.NEW,
            models=("dmae",),
            config=TrainingConfig(epochs=6, batch_rows=60, threads=1, seed=seed),
            id_dim=4,
            history_length=HISTORY,
            calibrate_similarity=calibrate,
        )


def table(records: Rows) -> ItemTable:
    return item_table(records, ~tiny.NEW, tiny.NEW, trained(False).schema)


def test_similarities_are_those_of_train_pairs_whose_vectors_are_there() -> None:
    items = table(tiny.records())
    found = similarities(SAMPLES, items, MODALITIES, NAMES, HISTORY)
    assert set(found) == set(NAMES)
    for column, name in enumerate(NAMES):
        part = slice(MODALITIES[column].start, MODALITIES[column].start + tiny.DIM)
        wanted = []
        for r in np.flatnonzero(SAMPLES.splits == TRAIN):
            for n in SAMPLES.candidates[r][SAMPLES.candidate_mask[r]]:
                for j in SAMPLES.liked[max(SAMPLES.starts[r], SAMPLES.ends[r] - HISTORY) : SAMPLES.ends[r]]:
                    scales = items.inv_norm[n, column] * items.inv_norm[j, column]
                    if scales > 0:
                        dot = items.codes[n, part].astype(float) @ items.codes[j, part].astype(float)
                        wanted.append((dot * scales + 1) / 2)
        assert len(found[name]) == len(wanted) > 1_000
        assert np.allclose(np.sort(found[name]), np.sort(wanted), atol=1e-6)
    few = similarities(SAMPLES, items, MODALITIES, NAMES, HISTORY, pairs=300)
    assert 100 < len(few["text"]) <= 400


def test_the_middle_98_percent_become_the_unit_interval() -> None:
    r = np.random.default_rng(0).normal(0.93, 0.01, 50_000).astype(np.float32)
    ((scale, shift),) = fit_similarity_calibration({"text": r}, ("text",))
    assert np.quantile(r * scale + shift, (0.01, 0.99)) == pytest.approx((0, 1), abs=1e-3)
    same, none = fit_similarity_calibration(
        {"same": np.full(9, 0.7, np.float32), "none": np.zeros(0, np.float32)}, ("same", "none")
    )
    assert none == (1, 0)
    assert same[0] == pytest.approx(100)  # as far as the codes' rounding allows
    assert 0.7 * same[0] + same[1] == pytest.approx(0.5, abs=1e-4)


def test_a_bucket_is_used_from_a_tenth_of_its_even_share() -> None:
    even = (np.arange(10_000) / 10_000).astype(np.float32)
    assert bucket_use(even, 51) == pytest.approx(50 / 51)  # the last one is for r = 1 alone (D3)
    assert bucket_use(np.r_[even, np.ones(200, np.float32)], 51) == 1
    half = (even / 2).astype(np.float32)
    assert bucket_use(half, 50) == 0.5
    assert bucket_use(half, 50, (2.0, 0.0)) >= 0.98
    crowded = np.r_[np.full(9_990, 0.5), np.linspace(0, 1, 10)].astype(np.float32)
    assert bucket_use(crowded, 50) == 1 / 50
    assert bucket_use(np.zeros(0, np.float32), 50) == 0
    with pytest.raises(InvalidInput, match="buckets"):
        bucket_use(even, 1)


def test_a_narrow_modality_is_warned_of_by_name() -> None:
    with pytest.warns(FewBuckets, match="image use 12% of DMAE's buckets") as caught:
        warn_of_few_buckets({"text": 0.25, "image": 0.12})
    assert len(caught) == 1


def test_the_recipe_warns_and_goes_on_by_default() -> None:
    narrow = similarities(SAMPLES, table(anisotropic()), MODALITIES, NAMES, HISTORY)
    for r in narrow.values():
        low, high = 2 * np.quantile(r, (0.05, 0.95)) - 1
        assert 0.84 < low < high < 1
    everything = TableView(anisotropic(), np.ones(tiny.ITEMS, bool))
    with pytest.warns(FewBuckets) as caught:
        run = train_rankers(
            SAMPLES,
            tiny.SPACE,
            TableView(anisotropic(), ~tiny.NEW),
            everything,
            tiny.NEW,
            models=("din", "dmae"),
            config=TrainingConfig(epochs=1, batch_rows=300, threads=1),
            id_dim=4,
            history_length=HISTORY,
        )
    assert {str(w.message).split()[2] for w in caught} == set(NAMES)
    assert "bucket_use" not in run.results["din"].report
    use = run.results["dmae"].report["bucket_use"]
    assert set(use) == set(NAMES)
    assert max(use.values()) < 0.25
    (content,) = run.results["dmae"].trained.model.config.content
    assert isinstance(content, DmaeConfig)
    assert content.calibration == ()


def test_calibrated_similarities_use_the_buckets_and_are_in_the_model() -> None:
    calibrated = trained(True).results["dmae"]
    assert min(calibrated.report["bucket_use"].values()) > 0.8
    (content,) = calibrated.trained.model.config.content
    assert isinstance(content, DmaeConfig)
    assert len(content.calibration) == 2
    document = calibrated.trained.model.config.to_dict()["content"][0]["calibration"]
    assert document == [list(pair) for pair in content.calibration]


def test_calibrated_similarities_rank_no_worse() -> None:
    """Three seeds: one alone moves by some hundredths either way on so small a split."""
    before, after = (
        np.mean(
            [
                [trained(c, seed).results["dmae"].report["test"][group]["auc"] for group in ("all", "new")]
                for seed in range(3)
            ],
            axis=0,
        )
        for c in (False, True)
    )
    assert (after > before - 0.01).all()
    assert (after > 0.85).all()
