from __future__ import annotations

import json

import pytest

from training.graph_bench import run
from training.models.builders import ciubm, dmae
from training.models.columns import AttributeTable
from training.models.similarity import side_by_side
from training.serving_graph.floor import multiply_adds

KEYS = {"model", "n", "t", "d", "plain_ms", "module_ms", "serving_ms", "ratio", "max_abs_diff", "floor_ms"}
MODALITIES = side_by_side([("text", 128), ("image", 128), ("fused", 128)])


def test_the_last_line_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(json=True, candidates=(40,), behaviours=(24,), steps=20, seconds=0.2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[-1]) == result
    assert [(c["model"], c["n"], c["t"], c["d"]) for c in result["cases"]] == [
        ("dmae", 40, 24, 32),
        ("ciubm", 40, 24, 128),
    ]
    for case in result["cases"]:
        assert set(case) >= KEYS
        assert case["max_abs_diff"] <= 4e-4
        assert case["logit_std"] > 0.01
        assert 0 < case["floor_ms"] < case["serving_ms"]
        assert case["ratio"] == pytest.approx(case["plain_ms"] / case["serving_ms"], rel=1e-2)
        assert case["plain_chunk"] == case["n"]
        assert case["plain_ms"] > 0
        assert case["module_ms"] > 0
    for gates in result["parity"].values():
        assert gates["literal"] <= 1e-5
        assert gates["module"] <= 1e-5
        assert gates["folded"] <= 1e-5
        assert gates["tabulated"] <= 4e-4


def test_counted_operations_are_those_of_the_papers() -> None:
    config = dmae(MODALITIES, AttributeTable(), history_length=64)
    token = 2 * 128 + 2 * (32 * 32 + 2 * 11 * 32 + 3 * 32) + 16 * 80 + 80 * 40 + 40 + 16
    candidate = 2 * 2 * 32 * 32 + 2 * 16 * 80 + 96 * 200 + 200 * 80 + 80
    assert multiply_adds(config, 100, 64) == 100 * (64 * token + candidate) + 64 * 16 * 80


@pytest.mark.parametrize("t", [64, 1_000])
def test_ciubm_s_floor_is_the_cheaper_form(t: int) -> None:
    config = ciubm(MODALITIES, AttributeTable(), history_length=t)
    din = 100 * (t * (16 * 80 + 80 * 40 + 40 + 16) + 2 * 16 * 80) + t * 16 * 80
    network = 100 * (32 * 200 + 200 * 80 + 80)
    loop = 100 * t * 128 + t * 144 * 200 + 100 * t * 200
    matrices = t * 128 * 144 + 128 * 144 * 200 + 100 * 128 * 200
    assert multiply_adds(config, 100, t) == din + network + (loop if t == 64 else matrices)
