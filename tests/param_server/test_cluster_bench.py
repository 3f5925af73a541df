from __future__ import annotations

import json
from pathlib import Path

from param_server.cluster_bench import over_nodes
from tests.param_server.samples import make_records, make_space


async def test_a_row_per_cluster_ready_for_json(tmp_path: Path) -> None:
    space, ids = make_space(), [f"item {i}" for i in range(1_200)]
    rows = await over_nodes(tmp_path, space, ids, make_records(space, range(1, 1_201)), (1, 2), repeats=2)
    one, two = json.loads(json.dumps(rows))
    assert (one["nodes"], two["nodes"], two["items"]) == (1, 2, 1_200)
    assert len(two["memory_per_node"]) == 2
    assert all(used > 0 for used in two["memory_per_node"])
    assert one["cold_164_p50_ms"] > 0
    assert two["cold_1064_p99_ms"] >= two["cold_1064_p50_ms"]
