"""`repcenter generations`: published generations and the scenes' pointers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from cli.shelf import shelf
from param_server.connection import connect
from param_server.generations import Generations
from param_server.settings import StoreSettings

T = TypeVar("T")


def _with_generations(var: Path, act: Callable[[Generations], Awaitable[T]]) -> T:
    async def run(url: str) -> T:
        redis = connect(url, StoreSettings())
        try:
            return await act(Generations(redis))
        finally:
            await redis.aclose()

    with shelf(var, reuse=True) as url:
        return asyncio.run(run(url))


def print_generations(var: Path, as_json: bool) -> None:
    async def read(generations: Generations) -> list[dict[str, object]]:
        scenes = await generations.scenes()
        return [
            {
                "generation": g.id,
                "created_ms": g.created_ms,
                "space": g.space.id,
                "encoder": g.encoder_digest[:12],
                "ranker": g.ranker_digest[:12],
                "scenes": [s for s, pointer in scenes.items() if pointer.generation_id == g.id],
            }
            for g in await generations.list()
        ]

    rows = _with_generations(var, read)
    if as_json:
        print(json.dumps(rows))
        return
    table = Table()
    for name in ("generation", "space", "encoder", "ranker", "scenes"):
        table.add_column(name, overflow="fold")
    for row in rows:
        del row["created_ms"]
        table.add_row(*(", ".join(v) if isinstance(v, list) else str(v) for v in row.values()))
    Console().print(table)


def activate(var: Path, generation: str, scene: str, expected_revision: int | None) -> None:
    pointer = _with_generations(
        var, lambda g: g.activate(scene, generation, expected_revision=expected_revision)
    )
    print(f"scene {scene}: generation {pointer.generation_id}, revision {pointer.revision}")


def roll_back(var: Path, scene: str) -> None:
    pointer = _with_generations(var, lambda g: g.roll_back(scene))
    print(f"scene {scene}: generation {pointer.generation_id}, revision {pointer.revision}")
