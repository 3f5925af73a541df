"""bfloat16 in the model's matrix products, float32 where a rounding would change more than a logit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema
from tests.training import tiny
from training.data.interactions import TEST
from training.evaluation import evaluate, predict
from training.item_table import item_table
from training.loop import TrainedRanker, TrainingConfig, train_ranker
from training.models.similarity import compare, query_cosine
from training.recipes.ranker import new_ranker
from training.step import Precision
from training.vocabularies import fit_vocabularies

CONFIG = TrainingConfig(epochs=6, batch_rows=60, threads=1, patience=9)
SAMPLES = tiny.samples()
SCHEMA = FeatureSchema(8, 4, fit_vocabularies(tiny.records()[~tiny.NEW], tiny.SPACE.attributes))
SERVING = item_table(tiny.records(), np.ones(tiny.ITEMS, bool), tiny.NEW, SCHEMA)


def train(model: str, precision: Precision) -> TrainedRanker:
    items = item_table(tiny.records(), ~tiny.NEW, tiny.NEW, SCHEMA)
    config = dataclasses.replace(CONFIG, precision=precision)
    return train_ranker(new_ranker(model, tiny.SPACE, SCHEMA, 0), SAMPLES, items, config)


def auc_of(trained: TrainedRanker) -> float:
    chosen = np.flatnonzero(SAMPLES.splits == TEST)
    logits = predict(trained.model, SAMPLES, chosen, SERVING, trained.ids)
    value = evaluate(logits, SAMPLES, chosen, SERVING.new)["all"]["auc"]
    assert value is not None
    return value


@pytest.mark.parametrize("model", ["din_pos", "ciubm", "dmae"])
def test_bf16_trains_to_a_similar_auc_with_float32_weights(model: str) -> None:
    full, mixed = train(model, "fp32"), train(model, "bf16")
    assert auc_of(mixed) == pytest.approx(auc_of(full), abs=0.03)
    assert {t.dtype for t in mixed.model.state_dict().values()} == {torch.float32}
    same = [
        torch.equal(a, b)
        for a, b in zip(full.model.state_dict().values(), mixed.model.state_dict().values(), strict=True)
    ]
    assert not all(same)  # the products really were rounded


def test_similarities_are_exact_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (40, 128), generator=generator, dtype=torch.int8)
    inv_norm = torch.rand(40, generator=generator)
    candidates = torch.randint(0, 40, (3, 5), generator=generator, dtype=torch.int32)
    behaviours = torch.randint(0, 40, (3, 9), generator=generator, dtype=torch.int32)
    given = (codes, inv_norm, candidates, behaviours, torch.ones(3, 9, dtype=torch.bool))
    asked = (codes, inv_norm, candidates, codes[:3], inv_norm[:3])
    plain, query = compare(*given), query_cosine(*asked)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_query = compare(*given), query_cosine(*asked)
        rounded = torch.matmul(plain.candidate_codes, plain.behaviour_codes.transpose(1, 2))
    assert torch.equal(mixed.cosine, plain.cosine)
    assert torch.equal(mixed_query, query)
    assert rounded.dtype == torch.bfloat16  # what the products would have been


@pytest.mark.parametrize(("field", "value"), [("precision", "fp16"), ("device", "tpu")])
def test_other_settings_are_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        dataclasses.replace(CONFIG, **{field: value})  # type: ignore[arg-type]
