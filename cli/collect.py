"""`repcenter generations collect`, `pin`, `unpin`: what leaves the shelf, and what never does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.progress import stage
from cli.shelf import with_redis
from param_server.collection import Collected, collect, plan_collection
from param_server.collection_plan import Kept, Plan
from param_server.connection import connect
from param_server.parts import Part
from param_server.pins import Pins
from param_server.server import Server
from param_server.settings import GenerationSettings, StoreSettings


def run_collect(
    var: Path,
    keep: int | None,
    grace: float | None,
    unpublished_grace: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Collect, or only say what would be."""
    given = {"collect_keep": keep, "collect_grace_s": grace, "collect_unpublished_s": unpublished_grace}
    settings = GenerationSettings().model_copy(update={k: v for k, v in given.items() if v is not None})
    if dry_run:
        made, left = with_redis(var, lambda redis: plan_collection(redis, settings))
        _print_plan(made, left, as_json)
    else:
        _print_collected(with_redis(var, lambda redis: _collect(redis, settings, as_json)), as_json)


async def _collect(redis: Server, settings: GenerationSettings, as_json: bool) -> Collected:
    stores = StoreSettings()
    stream = redis if stores.stream_url is None else connect(stores.stream_url, stores, "stream_url")
    try:
        with stage(Console(stderr=as_json), "Collecting") as advance:

            def say(part: str, done: int, total: int) -> None:
                advance.note(part)
                advance(done, total)

            return await collect(redis, settings, stream=stream, progress=say)
    finally:
        if stream is not redis:
            await stream.aclose()


def _print_plan(made: Plan, left: Sequence[Part], as_json: bool) -> None:
    if as_json:
        document = {"would_collect": _names(made.parts), "unfinished": _names(left), "kept": _kept(made.kept)}
        print(json.dumps(document))
        return
    table = Table("", "would", "")
    for part in left:
        table.add_row(escape(str(part)), "go", "an earlier collection did not finish it")
    for part in made.parts:
        table.add_row(escape(str(part)), "go", "nobody needs it")
    for kept in made.kept:
        table.add_row(escape(str(kept.part)), "stay", escape(kept.why))
    Console().print(table)


def _print_collected(report: Collected, as_json: bool) -> None:
    if as_json:
        document = {
            "collected": _names(report.parts),
            "resumed": _names(report.resumed),
            "keys": report.keys,
            "kept": _kept(report.kept),
        }
        print(json.dumps(document))
        return
    for part in report.parts:
        print(f"collected {part}{' (begun earlier)' if part in report.resumed else ''}")
    print(f"{len(report.parts)} collected, {report.keys:,} keys; {len(report.kept)} stay")


def pin(var: Path, name: str, reason: str) -> None:
    """Keep a part for ever."""
    print(f"pinned {with_redis(var, lambda redis: Pins(redis).pin(name, reason))}")


def unpin(var: Path, name: str) -> None:
    """No longer."""
    print(f"unpinned {with_redis(var, lambda redis: Pins(redis).unpin(name))}")


def _names(parts: Sequence[Part]) -> list[dict[str, str]]:
    return [{"kind": part.kind, "name": part.name} for part in parts]


def _kept(kept: Sequence[Kept]) -> list[dict[str, Any]]:
    return [{"kind": k.part.kind, "name": k.part.name, "why": k.why} for k in kept]
