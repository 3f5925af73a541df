from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.errors import Conflict, InvalidInput
from contracts.schema import FeatureSchema
from tests.training import tiny
from training.checkpoints import load_checkpoint, save_checkpoint
from training.data.samples import Samples
from training.evaluation import evaluate, predict
from training.item_table import ItemTable, item_table
from training.loop import StepReport, TrainedRanker, TrainingConfig, train_ranker
from training.recipes.ranker import new_ranker
from training.step import LossNotFinite
from training.vocabularies import fit_vocabularies

SAMPLES = tiny.samples()
SCHEMA = FeatureSchema(8, 4, fit_vocabularies(tiny.records()[~tiny.NEW], tiny.SPACE.attributes))
TRAINING = item_table(tiny.records(), ~tiny.NEW, tiny.NEW, SCHEMA)
SERVING = item_table(tiny.records(), np.ones(tiny.ITEMS, bool), tiny.NEW, SCHEMA)
CONFIG = TrainingConfig(epochs=3, batch_rows=60, threads=1, checkpoint_steps=1, patience=9)


class Interrupted(Exception):
    pass


def _train(
    name: str = "dmae",
    config: TrainingConfig = CONFIG,
    *,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    reports: list[StepReport] | None = None,
    samples: Samples = SAMPLES,
    items: ItemTable = TRAINING,
) -> TrainedRanker:
    def on_step(report: StepReport) -> None:
        if reports is not None:
            reports.append(report)
        if report.step == stop_after:
            raise Interrupted

    model = new_ranker(name, tiny.SPACE, SCHEMA, config.seed)
    return train_ranker(model, samples, items, config, checkpoint=checkpoint, on_step=on_step)


def _bits(trained: TrainedRanker) -> dict[str, bytes]:
    state = {name: tensor.numpy().tobytes() for name, tensor in trained.model.state_dict().items()}
    return state | {"ids": trained.ids.vectors.tobytes()}


def _auc(trained: TrainedRanker, group: str) -> float:
    test = np.flatnonzero(SAMPLES.splits == 2)
    report = evaluate(predict(trained.model, SAMPLES, test, SERVING, trained.ids), SAMPLES, test, SERVING.new)
    value = report[group]["auc"]
    assert value is not None
    return value


def test_a_planted_preference_is_learned_and_holds_for_new_items() -> None:
    trained = _train("ciubm", dataclasses.replace(CONFIG, epochs=8, checkpoint_steps=0))
    assert _auc(trained, "warm") > 0.95
    assert _auc(trained, "new") > 0.95
    assert trained.log["loss"][-1] < 0.6 * trained.log["loss"][0]


def test_an_id_model_learns_what_ids_can_tell() -> None:
    trained = _train("din", dataclasses.replace(CONFIG, epochs=40, id_dropout=0.0, patience=50))
    assert _auc(trained, "warm") > 0.75


@pytest.mark.parametrize("stop_after", [1, 8, 17])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    whole = _train()
    file = tmp_path / "dmae.safetensors"
    with pytest.raises(Interrupted):
        _train(checkpoint=file, stop_after=stop_after)
    reports: list[StepReport] = []
    resumed = _train(checkpoint=file, reports=reports)
    assert reports[0].step == stop_after + 1
    assert _bits(resumed) == _bits(whole)
    assert resumed.log["validations"] == whole.log["validations"]
    assert resumed.log["loss"] == whole.log["loss"]
    again = _train(checkpoint=file)  # a finished run is not trained further
    assert _bits(again) == _bits(whole)


def test_the_seed_decides() -> None:
    other = dataclasses.replace(CONFIG, seed=1)
    assert _bits(_train("din")) == _bits(_train("din"))
    assert _bits(_train("din")) != _bits(_train("din", other))


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    with pytest.raises(Interrupted):
        _train("din", checkpoint=file, stop_after=2)
    with pytest.raises(Conflict, match="another run"):
        _train("din", dataclasses.replace(CONFIG, epochs=4), checkpoint=file)
    with pytest.raises(Conflict, match="another run"):
        _train("din_pos", checkpoint=file)


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\x80\x04garbage that a pickle could start with")
    with pytest.raises(InvalidInput, match="checkpoint"):
        load_checkpoint(file)
    save_checkpoint(file, {"a": torch.ones(2)}, {"step": 3})
    tensors, state = load_checkpoint(file)
    assert torch.equal(tensors["a"], torch.ones(2))
    assert state["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_best_validation_is_kept_and_training_stops_early() -> None:
    # labels without any rule: validation AUC wanders, so the best step is seldom the last
    labels = SAMPLES.labels.copy()
    flip = np.random.default_rng(5).random(len(labels)) < 0.5
    labels[flip, :2] = labels[flip, 1::-1]
    noise = dataclasses.replace(SAMPLES, labels=labels)
    reports: list[StepReport] = []
    config = dataclasses.replace(CONFIG, epochs=30, patience=2, validations_per_epoch=2, learning_rate=0.03)
    trained = _train("din_pos", config, samples=noise, reports=reports)
    scores = [(r.step, r.validation_auc) for r in reports if r.validation_auc is not None]
    assert trained.log["steps"] < reports[0].steps
    assert trained.log["best_step"] == scores[-3][0]
    assert trained.log["validation_auc"] == max(s for _, s in scores) == scores[-3][1]
    val = np.flatnonzero(noise.splits == 1)
    logits = predict(trained.model, noise, val, TRAINING, trained.ids)
    assert evaluate(logits, noise, val, TRAINING.new)["all"]["auc"] == pytest.approx(scores[-3][1], abs=1e-12)


def test_only_items_that_training_showed_have_an_id() -> None:
    trained = _train("din", dataclasses.replace(CONFIG, epochs=1))
    seen = set()
    for r in np.flatnonzero(SAMPLES.splits == 0):
        seen |= set(SAMPLES.candidates[r].tolist())
        seen |= set(SAMPLES.liked[SAMPLES.starts[r] : SAMPLES.ends[r]][-8:].tolist())
    wanted = seen - {0} - set((np.flatnonzero(tiny.NEW) + 1).tolist())
    assert set(np.flatnonzero(trained.ids.known).tolist()) == wanted


def test_id_dropout_is_what_trains_the_out_of_vocabulary_vector() -> None:
    # histories hold new items, whose gradient would reach the vector too: leave them out here
    shown = dataclasses.replace(SAMPLES, liked=np.where(SAMPLES.liked > tiny.ITEMS - 8, 1, SAMPLES.liked))
    once = dataclasses.replace(CONFIG, epochs=1, id_dropout=0.0)
    without = _train("din", once, samples=shown)
    dropped = _train("din", dataclasses.replace(once, id_dropout=0.3), samples=shown)
    assert not without.model.items.out_of_vocabulary.any()
    assert dropped.model.items.out_of_vocabulary.all()


def test_a_loss_that_is_not_finite_has_a_name() -> None:
    broken = TRAINING.inv_norm.copy()
    broken[1 : tiny.ITEMS // 2] = np.nan
    with pytest.raises(LossNotFinite, match="loss is nan at step 0"):
        _train("ciubm", items=dataclasses.replace(TRAINING, inv_norm=broken))


@pytest.mark.parametrize(("split", "name"), [(0, "train"), (1, "val")])
def test_a_split_without_positives_is_refused(split: int, name: str) -> None:
    labels = np.where((SAMPLES.splits == split)[:, None], 0, SAMPLES.labels).astype(np.float32)
    with pytest.raises(InvalidInput, match=f"split '{name}'"):
        _train("din", samples=dataclasses.replace(SAMPLES, labels=labels))


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("learning_rate", 0.0), ("id_dropout", 1.0)])
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=field):
        dataclasses.replace(CONFIG, **{field: value})  # type: ignore[arg-type]


def test_threads_and_random_state_are_left_as_they_were() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    _train("din", dataclasses.replace(CONFIG, epochs=1, threads=2))
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), before)
