from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import training
from contracts.errors import InvalidInput
from contracts.items import token_hash
from tests.training import tiny
from training.loop import StepReport, TrainingConfig
from training.recipes.ranker import MODELS, RankerRun, TableView, comparison, summary, train_rankers

CONFIG = TrainingConfig(epochs=3, batch_rows=60, threads=1)
RECORDS = tiny.records()


def _run(**overrides: object) -> RankerRun:
    arguments: dict[str, object] = {"config": CONFIG, "id_dim": 4, "history_length": 8} | overrides
    everything = TableView(RECORDS, np.ones(tiny.ITEMS, bool))
    return train_rankers(
        tiny.samples(),
        tiny.SPACE,
        TableView(RECORDS, ~tiny.NEW),
        everything,
        tiny.NEW,
        **arguments,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def run() -> RankerRun:
    return _run()


def test_the_summary_has_the_shape_that_the_demo_writes(run: RankerRun) -> None:
    out = summary(run.results)
    assert list(out) == ["auc", "auc_warm", "auc_new", "gauc", "logloss", "calibration"]
    assert list(out["gauc"]) == ["user", "request"]
    flat = [out[k] for k in ("auc", "auc_warm", "auc_new", "logloss")]
    for figures in (*flat, *out["gauc"].values()):
        assert tuple(figures) == MODELS
        assert all(isinstance(value, float) for value in figures.values())
    assert out["auc"]["dmae"] == run.results["dmae"].report["test"]["all"]["auc"]


def test_the_summary_says_how_far_scores_can_be_believed(run: RankerRun) -> None:
    figures = summary(run.results)["calibration"]
    assert tuple(figures) == MODELS
    for name, of_model in figures.items():
        calibrated = run.results[name].calibrated
        assert of_model["scale"] == calibrated.calibration.scale
        assert of_model["negative_sampling_rate"] == 1
        for group in ("all", "warm", "new"):
            both = calibrated.test[group]
            assert of_model[group]["ece_before"] == both.before.ece
            assert of_model[group]["ratio_after"] == both.after.ratio
        assert calibrated.validation["all"].after.ratio == pytest.approx(1, abs=0.02)


def test_every_model_with_dmae_says_how_its_buckets_are_used(run: RankerRun) -> None:
    assert {name for name, result in run.results.items() if "bucket_use" in result.report} == {"dmae"}
    use = run.results["dmae"].report["bucket_use"]
    assert set(use) == {"text", "image"}
    assert min(use.values()) > 0.25


def test_content_finds_what_ids_cannot(run: RankerRun) -> None:
    new = summary(run.results)["auc_new"]
    assert min(new["ciubm"], new["dmae"]) > max(new["din"], new["din_pos"]) + 0.1


def test_int8_id_rows_hardly_change_the_auc(run: RankerRun) -> None:
    for result in run.results.values():
        change = result.report["auc_change_int8"]
        assert abs(change) < 5e-3
        assert change == result.report["test"]["all"]["auc"] - result.report["auc_float_ids"]


def test_the_comparison_has_a_line_per_model(run: RankerRun) -> None:
    head, *lines = comparison(run.results).splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)
    assert "AUC new" in head
    assert f"{summary(run.results)['auc']['din']:.4f}" in lines[0]


def test_vocabularies_and_weights_never_see_new_items(run: RankerRun) -> None:
    changed = RECORDS.copy()
    changed["attributes"][tiny.NEW, 0] = token_hash("genres", "only on new items")
    changed["codes"][tiny.NEW] = 1
    other = train_rankers(
        tiny.samples(),
        tiny.SPACE,
        TableView(changed, np.ones(tiny.ITEMS, bool)),  # a table that holds them by mistake
        TableView(changed, np.ones(tiny.ITEMS, bool)),
        tiny.NEW,
        models=("dmae",),
        config=CONFIG,
        id_dim=4,
        history_length=8,
    )
    assert other.schema.to_json() == run.schema.to_json()
    mine, theirs = (r.results["dmae"].trained for r in (run, other))
    assert np.array_equal(mine.ids.vectors, theirs.ids.vectors)
    assert mine.log["validations"] == theirs.log["validations"]


def test_progress_and_checkpoints_by_model(tmp_path: Path) -> None:
    seen: list[tuple[str, StepReport]] = []
    _run(models=("din", "ciubm"), checkpoints=tmp_path, on_step=lambda name, step: seen.append((name, step)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ciubm.safetensors", "din.safetensors"]
    last = seen[-1][1]
    assert seen[0][0] == "din"
    assert seen[-1][0] == "ciubm"
    assert last.step == last.steps
    assert last.rows_per_s > 0
    assert last.validation_auc is not None
    again: list[tuple[str, StepReport]] = []
    _run(models=("din", "ciubm"), checkpoints=tmp_path, on_step=lambda name, step: again.append((name, step)))
    assert not again  # both are finished


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be among din, din_pos, ciubm, dmae"):
        _run(models=("dien",))


def test_training_never_unpickles() -> None:
    root = Path(training.__file__).parent
    files = list(root.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, file
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "cloudpickle", "dill", "joblib"} & set(names), file
