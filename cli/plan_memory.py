"""`repcenter plan-memory`: bytes per row and totals beforehand; the planner held to a server."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.progress import stage
from contracts.errors import Conflict, InvalidInput
from param_server.bench_server import servers
from param_server.cache_plan import cache_bytes, check_cache, plan_cache
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.memory_model import ServerKind
from param_server.plan_check import TOLERANCE, Check, check, sample_of
from param_server.planner import Catalogue, Plan, plan
from param_server.settings import StoreSettings

KINDS = (
    ServerKind("redis", "jemalloc"),
    ServerKind("valkey", "jemalloc"),
    ServerKind("valkey", "libc"),
)


def count(text: str, name: str) -> int:
    """A count as people write it: 16000000, 16e6, 16_000_000."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value < 1e13) or not value.is_integer():
        raise InvalidInput(f"--{name}", text, "must be a whole number, such as 16e6")
    return int(value)


def print_plan(catalogue: Catalogue, verify: bool, on_server: bool, as_json: bool) -> None:
    """Plans for every kind of server and for a process's cache; verify: Conflict where one is off by more
    than TOLERANCE."""
    plans = [plan(catalogue, kind) for kind in KINDS]
    cache = plan_cache(catalogue)
    checks = _check(catalogue, on_server, as_json) if verify or on_server else []
    if verify and catalogue.cached:
        with stage(Console(stderr=as_json), "Filling a cache in a process") as advance:
            checks.append(check_cache(catalogue, advance))
    if as_json:
        document: dict[str, Any] = {"plans": [p.to_json() for p in plans], "cache": cache.to_json()}
        document["cache_bytes"] = cache_bytes(catalogue)
        document["checks"] = [c.to_json() for c in checks]
        print(json.dumps(document))
    else:
        _print(Console(), plans, cache, cache_bytes(catalogue), checks)
    wrong = [c for c in checks if not c.holds]
    if wrong:
        raise Conflict(f"{wrong[0].server}: the plan is {wrong[0].error:+.1%} off, more than {TOLERANCE:.0%}")


def _check(catalogue: Catalogue, on_server: bool, as_json: bool) -> list[Check]:
    """A sample in every server that is installed, or in the one of REPCENTER_REDIS_URL."""
    sample, settings = sample_of(catalogue), StoreSettings()
    console = Console(stderr=as_json)

    def measure(url: str, name: str) -> Check:
        async def run() -> Check:
            redis = connect(url, settings)
            try:
                return await check(redis, sample, advance)
            finally:
                await redis.aclose()

        with stage(console, f"Loading a sample into {name}") as advance:
            return asyncio.run(run())

    if on_server:
        if settings.redis_url is None:
            raise InvalidInput("--on-server", settings.redis_url, "needs REPCENTER_REDIS_URL")
        return [measure(settings.redis_url, "the server of REPCENTER_REDIS_URL")]
    found = []
    for name, binary in servers().items():
        with (
            tempfile.TemporaryDirectory(prefix="repcenter-plan-") as folder,
            EmbeddedServer.start(Path(folder), binary=binary) as server,
        ):
            found.append(measure(server.url, name))
    return found


def _print(console: Console, plans: list[Plan], cache: Plan, setting: int, checks: list[Check]) -> None:
    table = Table(
        "rows", "count", "bytes", *(p.server for p in plans), title="bytes per row, with all it costs"
    )
    for i, part in enumerate(plans[0].parts):
        each = [f"{p.parts[i].each:,.0f} ({p.parts[i].each / part.payload:.2f})" for p in plans]
        table.add_row(part.name, f"{part.rows:,}", f"{part.payload:,}", *each)
    table.add_section()
    table.add_row("all", "", "", *(_bytes(p.total) for p in plans))
    console.print(table)
    for part in cache.parts:
        console.print(
            f"{part.name} in a process: {part.rows:,} of {part.each:,.0f} B, {_bytes(part.total)}; "
            f"with REPCENTER_CACHE_BYTES={setting}",
            highlight=False,
        )
    for c in checks:
        console.print(
            f"{c.server}: a sample was predicted to take {_bytes(c.predicted)}, took {_bytes(c.measured)} "
            f"({c.error:+.1%})",
            highlight=False,
        )


def _bytes(total: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if total < 1024:
            return f"{total:.3g} {unit}"
        total /= 1024
    return f"{total:,.1f} GiB"
