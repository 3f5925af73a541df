from __future__ import annotations

import json

import pytest

from cli.user_states import kept_states
from contracts.errors import InvalidInput
from training.user_side_bench import run


def test_the_only_line_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(kept_states, json=True, models=("ciubm",), behaviours=(9, 20), steps=5, seconds=0.05)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == result
    assert [(c["model"], c["n"], c["t"]) for c in result["cases"]] == [("ciubm", 100, 9), ("ciubm", 100, 20)]
    for case in result["cases"]:
        assert case["max_abs_diff"] <= 1e-6
        assert min(case["whole_ms"], case["hit_ms"], case["miss_ms"]) > 0
        assert case["history_bytes"] > case["t"] * 128


def test_an_unknown_ranker_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"models.*'lstm'"):
        run(kept_states, models=("lstm",))
