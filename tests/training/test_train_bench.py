from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InvalidInput
from training.data.interactions import TRAIN
from training.train_bench import LOADERS, draw, install, run, write_rows


def test_rows_for_fuxictr_are_the_rows_that_we_train_on(tmp_path: Path) -> None:
    drawn = draw(60, 3, seed=1)
    samples = drawn.samples
    with np.load(write_rows(drawn, tmp_path)) as stored:
        rows = dict(stored)
    assert {array.dtype for array in rows.values()} == {np.dtype(np.int32)}
    chosen = np.flatnonzero(samples.splits == TRAIN)
    assert len(rows["label"]) == 3 * len(chosen) == 60
    for at in (0, 7, 59):
        sample = chosen[at // 3]
        assert rows["item_index"][at] == samples.candidates[sample, at % 3]
        assert rows["label"][at] == samples.labels[sample, at % 3]
        history = samples.liked[samples.starts[sample] : samples.ends[sample]]
        assert rows["click_history"][at].tolist() == history.tolist()
        assert rows["user_history"][rows["user_index"][at]].tolist() == history.tolist()
    assert rows["click_history"].shape == (60, 64)
    assert rows["item_index"].min() > 0


def test_last_line_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(json=True, rows=96, repeats=2, fuxictr=None, models=("din",))
    lines = capsys.readouterr().out.strip().splitlines()
    assert json.loads(lines[-1]) == json.loads(json.dumps(result))
    assert len(lines) == 1
    assert result["din_rows_per_s"] > 0
    low, high = result["spread"]["din"]
    assert low <= result["din_rows_per_s"] <= high
    assert result["settings"]["din_fp32"]["precision"] == "fp32"
    assert result["din_fp32_rows_per_s"] > 0
    for key in ("ciubm_rows_per_s", "dmae_rows_per_s", "fuxictr_din_rows_per_s", "din_over_fuxictr_din"):
        assert result[key] is None, key
    assert result["fuxictr"] == "left out"
    assert result["rows"] == 96
    assert result["dims"]["history"] == 64


def test_an_impossible_install_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    rival = install(tmp_path / "file")
    assert rival.python is None
    assert "file" in rival.why


def test_loaders_are_those_of_the_script() -> None:
    script = (Path(__file__).parents[2] / "training" / "fuxictr_bench.py").read_text()
    assert all(f'"{loader}"' in script for loader in LOADERS)
    assert "from training" not in script
    assert "from contracts" not in script


def test_counts_must_be_positive() -> None:
    with pytest.raises(InvalidInput, match="repeats"):
        run(repeats=0, fuxictr=None)
