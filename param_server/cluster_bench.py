"""What one, two and three nodes of a cluster do to cold reads and to the memory of each. Rows ready for
JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.codec import Rows
from contracts.space import Space
from contracts.window import Window
from param_server.connection import connect
from param_server.embedded_cluster import EmbeddedCluster
from param_server.inspection import server_states
from param_server.settings import StoreSettings
from param_server.store import MAX_WINDOW, Store

COUNTS = (164, 1_064)
_SETTINGS = StoreSettings(socket_timeout_s=20.0, cluster_retry_s=20.0)
_WARM = 5


async def over_nodes(
    folder: Path,
    space: Space,
    ids: Sequence[str],
    records: Rows,
    nodes: Sequence[int] = (1, 2, 3),
    repeats: int = 200,
    say: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """The same rows on clusters of so many primaries, without replicas, all on this machine: a row per
    cluster.

    Keys: nodes, items, load_records_per_s, cold_<count>_p50_ms and _p99_ms, memory_per_node (bytes that the
    rows added, per node). ids: distinct; records: of `space`, in their order. Raises Unavailable.
    """
    found = []
    for count in nodes:
        if say is not None:
            say(f"cluster of {count}: {len(ids):,} items")
        with EmbeddedCluster.start(folder / f"cluster-{count}", primaries=count, replicas=0) as cluster:
            measured = await _one(cluster, space, ids, records, repeats)
            found.append({"nodes": count, "items": len(ids), **measured})
    return found


async def _one(
    cluster: EmbeddedCluster, space: Space, ids: Sequence[str], records: Rows, repeats: int
) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    row: dict[str, Any] = {}
    async with connect(cluster.url, _SETTINGS) as redis:
        store = Store(redis)
        await store.create_space(space)
        before = {state.address: state.used_memory for state in await server_states(redis)}
        began = time.perf_counter()
        for at in range(0, len(ids), MAX_WINDOW):
            end = at + MAX_WINDOW
            await store.commit_window(Window(space, list(ids[at:end]), records[at:end], committed_ms=0))
        row["load_records_per_s"] = round(len(ids) / (time.perf_counter() - began))
        for count in COUNTS:
            times = []
            for n in range(_WARM + repeats):
                chosen = generator.choice(len(ids), min(count, len(ids)), replace=False)
                some = [ids[i] for i in chosen.tolist()]
                began = time.perf_counter()
                got = await store.fetch(space, None, some)
                if n >= _WARM:
                    times.append(1e3 * (time.perf_counter() - began))
                assert got.found.all()
            row[f"cold_{count}_p50_ms"] = round(float(np.percentile(times, 50)), 3)
            row[f"cold_{count}_p99_ms"] = round(float(np.percentile(times, 99)), 3)
        after = await server_states(redis)
        row["memory_per_node"] = [state.used_memory - before[state.address] for state in after]
    return row
