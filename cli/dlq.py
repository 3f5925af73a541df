"""`repcenter dlq`: dead letters listed, shown, pushed again, forgotten."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cli.grid import grid
from cli.progress import stage
from cli.shelf import with_servers
from contracts.errors import Conflict, InvalidInput, NotFound, Overloaded, shown
from param_server.server import Server
from param_server.store import Store
from realtime_infer.dead_letters import DeadLetter, DeadLetters
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings

T = TypeVar("T")
Chosen = tuple[list[str], str | None, list[str]]  # names, or an error code and items; nothing: all


def _ask(var: Path, act: Callable[[DeadLetters], Awaitable[T]]) -> T:
    async def run(table: Server, stream: Server) -> T:
        return await act(DeadLetters(stream, Ingest(stream, EncoderSettings()), Store(table)))

    return with_servers(var, run)


def print_letters(var: Path, code: str | None, items: list[str], limit: int, as_json: bool) -> None:
    """The newest first."""
    found = _ask(var, lambda letters: letters.list(code, items, limit))
    if as_json:
        print(json.dumps([asdict(letter) for letter in found]))
        return
    table = grid("letter", "item", "died", "bytes", "code", "reason", title=f"{len(found):,} dead letters")
    for letter in found:
        item = "–" if letter.item_id is None else shown(letter.item_id)
        size = f"{letter.payload_bytes:,}"
        table.add_row(letter.name, item, _when(letter), size, letter.code, letter.reason)
    Console(markup=False).print(table)


def print_letter(var: Path, name: str, image: Path | None, as_json: bool) -> None:
    """All of one letter but the bytes of its picture, which go to `image`."""
    letter, entry = _ask(var, lambda letters: letters.get(name))
    item = entry.item if entry else None
    document: dict[str, object] = {**asdict(letter), "push": None}
    if item is not None:
        document["push"] = {
            "text": dict(item.text),
            "attributes": {n: list(v) if isinstance(v, tuple) else v for n, v in item.attributes.items()},
            "image_bytes": len(item.image or b""),
            "image_url": item.image_url,
        }
    if image is not None:
        if item is None or not item.image:
            raise NotFound("picture in dead letter", name)
        image.write_bytes(item.image)
    if as_json:
        print(json.dumps(document))
        return
    console = Console()
    for field, value in document.items():
        text = _when(letter) if field == "died_ms" else value
        console.print(f"{field:14} {text}", markup=False, highlight=False)


def replay_letters(var: Path, chosen: Chosen, force: bool, as_json: bool) -> None:
    """Each on its own: pushed again, or passed over with the reason. InvalidInput where any was."""

    async def act(letters: DeadLetters, name: str) -> str:
        while True:
            try:
                receipt = await letters.replay(name, force=force)
                return f"pushed again as sequence {receipt.sequence}"
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_s)

    _each(var, chosen, act, "Pushing dead letters again", as_json)


def drop_letters(var: Path, chosen: Chosen, as_json: bool) -> None:
    """Each on its own."""

    async def act(letters: DeadLetters, name: str) -> str:
        await letters.drop(name)
        return "dropped"

    _each(var, chosen, act, "Dropping dead letters", as_json)


def _each(
    var: Path, chosen: Chosen, act: Callable[[DeadLetters, str], Awaitable[str]], title: str, as_json: bool
) -> None:
    names, code, items = chosen
    console = Console(stderr=as_json)
    outcomes: list[dict[str, object]] = []

    async def run(letters: DeadLetters) -> None:
        todo = names or [letter.name for letter in reversed(await letters.list(code, items))]
        with stage(console, f"{title}: {len(todo):,}") as advance:
            for done, name in enumerate(todo, 1):
                try:
                    outcomes.append({"letter": name, "done": True, "outcome": await act(letters, name)})
                except (Conflict, InvalidInput, NotFound) as error:
                    outcomes.append({"letter": name, "done": False, "outcome": str(error)})
                advance(done, len(todo))

    _ask(var, run)
    if as_json:
        print(json.dumps(outcomes))
    else:
        for outcome in outcomes:
            console.print(f"{outcome['letter']}  {outcome['outcome']}", markup=False, highlight=False)
    passed_over = Counter(outcome["done"] for outcome in outcomes)[False]
    if passed_over:
        raise InvalidInput("dead letters", passed_over, f"were passed over, of {len(outcomes)}")


def _when(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.died_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
