from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contracts.errors import InvalidInput
from param_server import table_bench
from param_server.bench_ledger import BenchLedger
from param_server.turns import Reader, Sample, in_turn

KEYS = [
    *("items", "payload_bytes", "memory_ratio_valkey", "memory_ratio_redis7"),
    *("cold_164_p50_ms", "cold_164_p99_ms", "mget_164_p50_ms", "cold_ratio", "cached_164_p50_us"),
    *("cached_1064_p50_us", "cached_resize_ms", "cached_resize_held_ms"),
    *("cold_1064_p50_ms", "load_records_per_s", "feast_164_p50_ms", "feast_1064_p50_ms"),
]


def test_the_last_line_has_every_figure(tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[str] = []
    options: dict[str, Any] = {
        "items": table_bench.LEAST_ITEMS,
        "rounds": 4,
        "growth": [3_000],
        "nodes": [1, 2],
    }
    options |= {"rows_per_bucket": [64], "checkpoint": tmp_path}
    result = table_bench.run(
        **options, progress=lambda text, _done, _total: steps.append(text), say_case=said.append
    )
    last = json.loads(table_bench.last_line(result, whole=False))
    assert list(last)[: len(KEYS)] == KEYS
    assert "cases" not in last
    assert (last["items"], last["payload_bytes"]) == (2_000, 264)
    assert last["feast_164_p50_ms"] is None
    assert 0 < last["cached_164_p50_us"] < last["cached_1064_p50_us"]
    servers = {case["server"] for case in result["cases"]}
    assert len(result["cases"]) == len(said) - 2 == 4 * len(servers)
    assert [(row["nodes"], len(row["memory_per_node"])) for row in last["nodes"]] == [(1, 1), (2, 2)]
    assert all(row["items"] == 2_000 and row["cold_164_p50_ms"] > 0 for row in last["nodes"])
    for case in result["cases"]:
        assert case["item_bytes"] > case["record_bytes"]
        assert min(case["cold_164_p50_ms"], case["mget_1064_p50_ms"], case["load_records_per_s"]) > 0
    assert [round(case["rows_per_bucket"]) for case in result["cases"][:2]] == [8, 8]
    assert round(result["cases"][3]["rows_per_bucket"]) == 65
    assert [case["items"] for case in last["growth"]] == [3_000] * len(servers)
    assert any("loading" in step for step in steps)
    assert json.loads(table_bench.last_line(result, whole=True))["cases"] == result["cases"]
    assert not list(tmp_path.iterdir())  # it is whole: nothing is left to go on with


def test_an_interrupted_run_goes_on_with_the_next_case(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "items": table_bench.LEAST_ITEMS,
        "rounds": 2,
        "checkpoint": tmp_path,
        "nodes": [],
    }
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_bench.run(**options, say_case=stop)
    (noted,) = tmp_path.iterdir()
    noted.write_text(noted.read_text() + '{"name": "cut in the midd')
    steps: list[str] = []
    result = table_bench.run(
        **options, progress=lambda text, _done, _total: steps.append(text), say_case=said.append
    )
    assert said[0] == said[1]  # the first case was not measured again
    assert not [step for step in steps if step.startswith("1/")]
    assert len(result["cases"]) == len(said) - 1
    assert BenchLedger(tmp_path, 1).get("x") is None


async def test_turns_are_taken_by_all_and_the_order_changes() -> None:
    asked: list[tuple[str, int]] = []

    def reader(name: str) -> Reader:
        async def read(places: Sequence[npt.NDArray[np.int64]]) -> list[Sample]:
            asked.extend((name, int(chosen[0])) for chosen in places)
            return [(float(n), 1.0) for n in range(len(places))]

        return read

    times = await in_turn({"a": reader("a"), "b": reader("b")}, 50, 3, turns=2, block=3, warm=1)
    assert [name for name, _ in asked] == ["b"] * 3 + ["a"] * 6 + ["b"] * 3
    assert [place for _, place in asked[:3]] == [place for _, place in asked[3:6]]  # the same ids
    assert times["a"].clock.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert (times["b"].ms(50), times["b"].cpu_ms) == (1_500.0, 1_000.0)


def test_too_few_items_are_refused() -> None:
    with pytest.raises(InvalidInput, match="items: must be at least 2000"):
        table_bench.run(items=100)
