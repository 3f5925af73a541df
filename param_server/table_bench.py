"""`repcenter bench table`: memory, cold reads and loads of the tables, beside a bare MGET and Feast."""

from __future__ import annotations

import asyncio
import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contracts.errors import InvalidInput
from param_server.bench_ledger import BenchLedger
from param_server.bench_server import servers
from param_server.cluster_bench import over_nodes
from param_server.table_case import COUNTS, DIM, Case, Measured, draw, measure

LEAST_ITEMS = 2_000
GROWTH = (10_000, 100_000, 1_000_000)
NODES = (1, 2, 3)
_MOST_ON_NODES = 200  # reads of a cluster

Progress = Callable[[str, int, int], None]


def run(
    *,
    items: int = 200_000,
    growth: Sequence[int] = (),
    nodes: Sequence[int] = NODES,
    rounds: int = 1_000,
    feast: Path | None = None,
    rows_per_bucket: Sequence[int] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    say_case: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure on every server that is installed: what `last_line` prints, and `cases`.

    items: random 12-character ids, 2 x 128 and 3 x 128; growth: further counts of items, 2 x 128; nodes: of
    the clusters that hold `items` of 2 x 128, one cluster after another; rounds: reads of 164 ids of each
    kind, interleaved, in proportion fewer of 1,064; feast: directory of Feast's environment, made where
    absent, None leaves Feast out; rows_per_bucket: other layouts to compare, 2 x 128; checkpoint: where
    finished cases are noted, so that a run that was interrupted goes on; progress: called with what is being
    done; say_case: with a line of each case. The servers sync every write (appendfsync always), those of
    clusters every second. InvalidInput for less than LEAST_ITEMS.
    """
    for count in (items, *growth):
        if count < LEAST_ITEMS:
            raise InvalidInput("items", count, f"must be at least {LEAST_ITEMS}")
    binaries = servers()
    cases = [
        case for server in binaries for case in _cases(server, items, tuple(growth), tuple(rows_per_bucket))
    ]
    ledger = None
    if checkpoint is not None:
        ledger = BenchLedger(checkpoint, platform.node(), items, rounds, feast is not None)
    found: list[Measured] = []
    for n, case in enumerate(cases):
        before = ledger.get(case.name) if ledger else None
        measured = before or _measure(case, binaries[case.server], rounds, feast, n, len(cases), progress)
        if ledger and before is None:
            ledger.add(case.name, measured)
        found.append(measured)
        if say_case is not None:
            say_case(_line(measured))
    last = _keys(found, items)
    last["nodes"] = []
    for count in nodes:
        name = f"cluster of {count}, {items:,} items 2 x {DIM}"
        row = (ledger.get(name) if ledger else None) or _over(count, items, rounds, name, progress)
        if ledger:
            ledger.add(name, row)
        last["nodes"].append(row)
        if say_case is not None:
            reads = " ".join(f"{n}: {row[f'cold_{n}_p50_ms']:.2f} ms" for n in COUNTS)
            say_case(f"{name} {reads} load {row['load_records_per_s']:,.0f}/s")
    if ledger:
        ledger.finish()
    return {**last, "cases": found}


def last_line(result: dict[str, Any], whole: bool) -> str:
    """The result as one line of JSON; whole: with every figure of every case."""
    return json.dumps(result if whole else {k: v for k, v in result.items() if k != "cases"})


def _cases(server: str, items: int, growth: Sequence[int], layouts: Sequence[int]) -> list[Case]:
    return [
        Case(server, items, 2),
        Case(server, items, 3),
        *(Case(server, count, 2) for count in growth),
        *(Case(server, items, 2, rows) for rows in layouts),
    ]


def _measure(
    case: Case, binary: Path, rounds: int, feast: Path | None, n: int, cases: int, progress: Progress | None
) -> Measured:
    def say(text: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{n + 1}/{cases} {case.name}: {text}", done, total)

    first = n == 0
    with tempfile.TemporaryDirectory() as scratch:
        return asyncio.run(measure(case, binary, Path(scratch), rounds, feast if first else None, first, say))


def _over(nodes: int, items: int, rounds: int, name: str, progress: Progress | None) -> Measured:
    """The same items on a cluster of so many primaries."""
    if progress is not None:
        progress(f"{name}: loading, reading", 0, 1)
    space = Case("cluster", items, 2).space()
    with tempfile.TemporaryDirectory() as scratch:
        repeats = min(rounds, _MOST_ON_NODES)
        (row,) = asyncio.run(
            over_nodes(Path(scratch), space, *draw(space, items), nodes=(nodes,), repeats=repeats)
        )
    return row


def _keys(found: Sequence[Measured], items: int) -> dict[str, Any]:
    """What the last line says: of 2 x 128 on the first server, memory of both."""
    first = found[0]
    redis = [case for case in found if case["server"].startswith("redis 7") and case["modalities"] == 2]
    valkey = first if first["server"].startswith("valkey") else None
    last = {
        "items": first["items"],
        "payload_bytes": first["payload_bytes"],
        "memory_ratio_valkey": valkey and valkey["memory_ratio"],
        "memory_ratio_redis7": redis[0]["memory_ratio"] if redis else None,
        "cold_164_p50_ms": first["cold_164_p50_ms"],
        "cold_164_p99_ms": first["cold_164_p99_ms"],
        "mget_164_p50_ms": first["mget_164_p50_ms"],
        "cold_ratio": first["cold_164_ratio"],
        "cached_164_p50_us": first.get("cached_164_p50_us"),
        "cached_1064_p50_us": first.get("cached_1064_p50_us"),
        "cached_resize_ms": first.get("cached_resize_ms"),
        "cached_resize_held_ms": first.get("cached_resize_held_ms"),
        "cold_1064_p50_ms": first["cold_1064_p50_ms"],
        "load_records_per_s": first["load_records_per_s"],
        "feast_164_p50_ms": first.get("feast_164_p50_ms"),
        "feast_1064_p50_ms": first.get("feast_1064_p50_ms"),
    }
    more = ("mget_1064_p50_ms", "cold_1064_ratio", "cold_164_cpu_ms", "load_everysec_records_per_s")
    last |= {name: first[name] for name in more}
    last |= {name: value for name, value in first.items() if name.startswith(("feast", "cold_beside"))}
    last["memory_ratio_3x128"] = {
        case["server"]: case["memory_ratio"] for case in found if case["modalities"] == 3
    }
    growing = [case for case in found if case["modalities"] == 2 and case["items"] != items]
    of_growth = ("server", "items", "item_bytes", "memory_ratio", "cold_164_p50_ms", "cold_1064_p50_ms")
    last["growth"] = [{name: case[name] for name in of_growth} for case in growing]
    return last


def _line(case: Measured) -> str:
    line = (
        f"{case['server']:14} {case['items']:>9,} items {case['modalities']} x {DIM} "
        f"{case['rows_per_bucket']:5.1f} rows per bucket "
        f"{case['item_bytes']:6.1f} bytes ({case['memory_ratio']:.3f}) "
        + " ".join(
            f"{n}: {case[f'cold_{n}_p50_ms']:.2f} ms ({case[f'cold_{n}_ratio']:.2f} x MGET)" for n in COUNTS
        )
        + f" load {case['load_records_per_s']:,.0f}/s"
    )
    for n in COUNTS:
        if f"feast_{n}_p50_ms" in case:
            line += (
                f"\n  Feast, {n} ids: {case[f'feast_{n}_p50_ms']:.1f} ms in turn by blocks "
                f"({case[f'feast_{n}_ratio']:.1f} x ours, {case[f'feast_{n}_cpu_ratio']:.1f} x its CPU), "
                f"{case[f'feast_{n}_alone_p50_ms']:.1f} ms alone, "
                f"{case[f'feast_{n}_singly_ratio']:.1f} x one by one"
            )
    if case.get("feast") and "feast_load_records_per_s" not in case:
        line += f"\n  Feast could not be measured: {case['feast']}"
    return line
