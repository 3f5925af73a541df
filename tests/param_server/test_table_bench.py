from __future__ import annotations

import json

import pytest

from contracts.errors import InvalidInput
from param_server import table_bench

KEYS = [
    *("items", "payload_bytes", "memory_ratio_valkey", "memory_ratio_redis7"),
    *("cold_164_p50_ms", "cold_164_p99_ms", "mget_164_p50_ms", "cold_ratio", "cached_164_p50_us"),
    *("cold_1064_p50_ms", "load_records_per_s", "feast_164_p50_ms", "feast_1064_p50_ms"),
]


def test_the_last_line_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    result = table_bench.run(items=table_bench.LEAST_ITEMS, rounds=4, rows_per_bucket=[64])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last) == KEYS
    assert (last["items"], last["payload_bytes"]) == (2_000, 264)
    assert last["feast_164_p50_ms"] is last["cached_164_p50_us"] is None
    servers = {case["server"] for case in result["cases"]}
    assert len(result["cases"]) == 3 * len(servers)
    for case in result["cases"]:
        assert case["item_bytes"] > case["record_bytes"]
        assert min(case["cold_164_p50_ms"], case["mget_1064_p50_ms"], case["load_records_per_s"]) > 0
    assert [round(case["rows_per_bucket"]) for case in result["cases"][:3]] == [8, 8, 65]


def test_too_few_items_are_refused() -> None:
    with pytest.raises(InvalidInput, match="items: must be at least 2000"):
        table_bench.run(items=100)
