from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import Conflict, InvalidInput, NotFound
from tests.training.results.tiny_source import HISTORY, TinySource
from training.loop import StepReport
from training.models.similarity import side_by_side
from training.recipes.ranker_results import Comparison, Watcher, compare_rankers, report_rankers
from training.results.files import locked, read_arrays
from training.results.plots import GAINS, SCATTER
from training.results.runs import CHECKPOINT, LOCK, PREDICTIONS, RESULT, Run, Settings, plan
from training.results.variants import VARIANTS, variants

SETTINGS = Settings(epochs=2, batch_rows=120, history_length=HISTORY)
NAMES = ("nothing", "inside", "best", "oracle_best")


def _comparison(directory: Path, **overrides: object) -> Comparison:
    arguments: dict[str, object] = {"variants": NAMES, "seeds": 2, "draws": 1, "settings": SETTINGS}
    return Comparison(directory=directory, **(arguments | overrides))  # type: ignore[arg-type]


class _Cut(Watcher):
    """Stops the work at a step of the second run, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step_at = step
        self.names: list[str] = []

    def step(self, run: Run, report: StepReport) -> None:
        if run.variant.name == "inside" and report.step == self.step_at:
            raise KeyboardInterrupt

    def done(self, run: Run, seconds: float) -> None:
        self.names.append(run.name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    assert compare_rankers(_comparison(directory), TinySource())
    return directory


def test_a_run_leaves_its_result_and_predictions(runs: Path) -> None:
    for run in _comparison(runs).runs:
        result = json.loads((runs / run.name / RESULT).read_text())
        logits = read_arrays(runs / run.name / PREDICTIONS)["logits"]
        assert logits.shape == (result["report"]["all"]["rows"],)
        assert logits.dtype == np.float32
        assert not (runs / run.name / CHECKPOINT).exists()
    assert result["vectors"] == "loo"


def test_finished_runs_are_not_trained_again(runs: Path) -> None:
    source, watcher = TinySource(), _Cut(-1)
    assert compare_rankers(_comparison(runs), source, watcher)
    assert source.asked == []
    assert watcher.names == [run.name for run in _comparison(runs).runs]


def test_a_run_that_was_cut_short_ends_in_the_same_bits(runs: Path, tmp_path: Path) -> None:
    comparison = _comparison(tmp_path, seeds=1, variants=NAMES[:2])
    total = json.loads((runs / "inside-s0-d0" / RESULT).read_text())["log"]["steps"]
    with pytest.raises(KeyboardInterrupt):
        compare_rankers(comparison, TinySource(), _Cut(3 * total // 4))
    assert (tmp_path / "nothing-s0-d0" / RESULT).exists()
    assert not (tmp_path / "inside-s0-d0" / RESULT).exists()
    assert (tmp_path / "inside-s0-d0" / CHECKPOINT).exists()
    steps: list[int] = []

    class Seen(Watcher):
        def step(self, run: Run, report: StepReport) -> None:
            steps.append(report.step)

    assert compare_rankers(comparison, TinySource(), Seen())
    assert steps[0] > 1
    for name in ("nothing-s0-d0", "inside-s0-d0"):
        mine, theirs = (read_arrays(d / name / PREDICTIONS)["logits"] for d in (tmp_path, runs))
        assert np.array_equal(mine, theirs)


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    comparison = _comparison(tmp_path, seeds=1, variants=NAMES[:2])
    watcher = _Cut(-1)
    with locked(tmp_path / "nothing-s0-d0" / LOCK, wait=False) as mine:
        assert mine
        assert not compare_rankers(comparison, TinySource(), watcher)
    assert watcher.names == ["inside-s0-d0"]
    assert compare_rankers(comparison, TinySource(), watcher)


def test_results_of_other_settings_are_refused(runs: Path) -> None:
    other = dataclasses.replace(SETTINGS, epochs=3)
    with pytest.raises(Conflict, match="epochs"):
        compare_rankers(_comparison(runs, settings=other), TinySource())


def test_a_result_of_another_ranker_of_the_same_name_is_refused(runs: Path, tmp_path: Path) -> None:
    document = json.loads((runs / "nothing-s0-d0" / RESULT).read_text())
    (tmp_path / "nothing-s0-d0").mkdir()
    document["definition"] = VARIANTS["inside"].definition
    (tmp_path / "nothing-s0-d0" / RESULT).write_text(json.dumps(document))
    with pytest.raises(Conflict, match="another ranker that was called 'nothing'"):
        compare_rankers(_comparison(tmp_path), TinySource())


def test_the_report_is_whole_and_says_what_the_runs_measured(runs: Path, tmp_path: Path) -> None:
    comparison = _comparison(runs)
    path, missing = report_rankers(
        comparison, TinySource(), tmp_path, "the command", lambda done, total: None, bootstrap_draws=50
    )
    text = path.read_text()
    assert missing == 0
    assert "`the command`" in text
    aucs = [json.loads((runs / f"best-s{s}-d0" / RESULT).read_text())["report"]["new"]["auc"] for s in (0, 1)]
    assert f"{np.mean(aucs):.4f} ± {np.std(aucs, ddof=1):.4f}" in text
    for name in NAMES:
        assert VARIANTS[name].title in text
    for picture in (GAINS, SCATTER):
        assert picture in text
        assert (tmp_path / picture).read_text().lstrip().startswith("<?xml")


def test_a_partial_report_names_what_is_missing(runs: Path, tmp_path: Path) -> None:
    comparison = _comparison(runs, variants=(*NAMES, "dmae"))
    path, missing = report_rankers(
        comparison, TinySource(), tmp_path, "x", lambda done, total: None, bootstrap_draws=10
    )
    assert missing == 2
    assert "Not finished: dmae-s0-d0, dmae-s1-d0." in path.read_text()


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        report_rankers(_comparison(tmp_path), TinySource(), tmp_path, "x", lambda done, total: None)


def test_the_plan_is_a_whole_ladder_before_a_second_seed() -> None:
    names = [run.name for run in plan(variants(("best", "din")), seeds=2, draws=2)]
    assert names[:3] == ["din-s0-d0", "best-s0-d0", "din-s0-d1"]
    assert len(set(names)) == 8


@pytest.mark.parametrize(("seeds", "draws"), [(0, 1), (1, 0)])
def test_the_plan_holds_something(seeds: int, draws: int) -> None:
    with pytest.raises(InvalidInput, match="must be at least 1"):
        plan(variants(()), seeds, draws)


def test_unknown_variants_are_named() -> None:
    with pytest.raises(InvalidInput, match="bset"):
        variants(("bset",))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_builds(name: str) -> None:
    prepared = TinySource().prepared(0, warm=VARIANTS[name].warm)
    config = VARIANTS[name].build(side_by_side(prepared.modalities), prepared.attributes)
    assert VARIANTS[name].against in VARIANTS
    assert config.to_dict()
