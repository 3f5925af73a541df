"""`repcenter bench serve`, small: a ranker of few steps, served by a real process, every score compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.serve_bench import BenchOptions, lines, run
from cli.serve_world import serve_world


@pytest.mark.benches
def test_bench_serve_gives_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve_world(tmp_path / "world", steps=2)
    said: list[str] = []
    options = BenchOptions("grpc", 1, 0.2, 0.3, overload_s=0.2, growth=((10, 16),), sharing=((10, 16),))
    result = run(options, tmp_path, lambda text, done, total: said.append(text))
    keys = ("graph_rps", "served_rps", "efficiency", "overhead_cpu_ms", "p50_ms", "p99_ms", "growth")
    assert all(key in result for key in keys)
    assert result["wrong_scores"] == 0
    assert result["compared"] > 1_000
    assert result["graph_cpu_ms"] > 0
    assert result["served_cpu_ms"] > 0
    assert [(case["n"], case["t"]) for case in result["growth"]] == [(10, 16)]
    assert result["sharing"][0]["shared_rps"] > 0
    assert sum(result["overload"]["outcomes"].values()) == round(0.2 * result["overload"]["rate"])
    assert said[-1] == "done"
    assert "scores compared, 0 wrong" in lines(result)
