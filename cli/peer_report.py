"""What `repcenter bench peers` found, as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(result: Mapping[str, Any]) -> str:
    """A line for each case and number of connections, then what is compared."""
    columns = ("rps", "cpu_ms", "p50_ms", "p99_ms")
    text = [f"{'case':<42}{'connections':>12}" + "".join(f"{column:>10}" for column in columns)]
    for case in result["cases"]:
        for connections, found in case["by_connections"].items():
            text.append(
                f"{_name(case):<42}{connections:>12}" + "".join(f"{found[c]:>10.2f}" for c in columns)
            )
    if half := result["half_load"]:
        text.append(f"{half['rate']} requests/s, from when each was due:")
        text += [
            f"  {name}: p50 {waits['p50_ms']} ms, p99 {waits['p99_ms']} ms"
            for name, waits in half["waits"].items()
        ]
    text += [f"left out, {peer}: {why}" for peer, why in result["left_out"].items()]
    text.append(
        f"times the best peer's requests/s, {result['connections']} connections: serving graph "
        f"{_times(result['ratio_serving_graph'])}, with its documentation's code "
        f"{_times(result['ratio_documented'])}, every row from Redis {_times(result['ratio_redis'])}, "
        f"literal graph {_times(result['ratio_literal'])}; its CPU of a request, serving graph: "
        f"{_times(result['ratio_cpu'])}"
    )
    text.append(f"{result['compared']:,} scores compared with the literal graph's")
    return "\n".join(text)


def _name(case: Mapping[str, Any]) -> str:
    how = ", tuned" * case["tuned"] + (f", up to {case['batch']}" if case["batch"] > 1 else "")
    return f"{case['server']}, {case['graph']}, {case['rows']}{how}"


def _times(ratio: float | None) -> str:
    return "nobody" if ratio is None else f"{ratio:.2f}"
