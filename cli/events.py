"""`repcenter events push | import | forget | show`: what users did."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cli.progress import stage
from cli.settings import ClientSettings
from cli.shelf import with_redis
from contracts.errors import InvalidInput, Overloaded
from contracts.events import MAX_EVENTS, Appended, Event
from param_server.behaviour_import import import_interactions
from param_server.behaviours import DEFAULT_BEHAVIOURS, Behaviours
from serving.client import HttpClient

T = TypeVar("T")


def push_event(url: str, event: Event) -> None:
    """Append one event through the write door."""
    _print(asyncio.run(_push(url, [[event]])))


def push_events(url: str, path: Path) -> None:
    """Append a file of events, an object per line; "-" is the standard input. MAX_EVENTS per call."""
    if str(path) == "-":
        _print(asyncio.run(_push(url, _batches(sys.stdin.buffer, "standard input"))))
        return
    if not path.is_file():
        raise InvalidInput("events", str(path), "is not a file")
    with path.open("rb") as lines:
        _print(asyncio.run(_push(url, _batches(lines, path.name))))


def forget(url: str, user_id: str) -> None:
    """Delete all of a user's behaviours through the write door."""

    async def ask() -> None:
        async with HttpClient(url, credentials=ClientSettings().credentials()) as client:
            print(json.dumps(asdict(await client.forget(user_id))))

    asyncio.run(ask())


def show(var: Path, user_id: str, as_json: bool) -> None:
    """The stored behaviours of a user, newest last."""
    (history,) = with_redis(var, lambda redis: Behaviours(redis).read([user_id]))
    if as_json:
        print(json.dumps({"user_id": user_id, "behaviours": [asdict(b) for b in history]}))
        return
    for behaviour in history:
        print(f"{behaviour.timestamp_ms}\t{behaviour.item_id}")
    print(f"{len(history)} behaviours", file=sys.stderr)


def import_file(var: Path, path: Path, most: int | None) -> None:
    """Append the liked rows of an interactions.parquet, straight to the shelf; goes on where it stopped."""
    parquet = path / "interactions.parquet" if path.is_dir() else path
    console = Console(stderr=True)
    with stage(console, f"Importing {parquet}") as advance:
        done = with_redis(
            var,
            lambda redis: import_interactions(
                Behaviours(redis, DEFAULT_BEHAVIOURS if most is None else most),
                parquet,
                var / "events-import.json",
                advance,
            ),
        )
    print(json.dumps({"rows": done.rows, "resumed": done.resumed, **asdict(done.found)}))


def _batches(lines: Iterable[bytes], name: str) -> Iterator[list[Event]]:
    batch: list[Event] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            batch.append(_event(line, f"{name}: line {number}"))
        if len(batch) == MAX_EVENTS:
            yield batch
            batch = []
    if batch:
        yield batch


def _event(line: bytes, where: str) -> Event:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise InvalidInput(where, line[:200].decode(errors="replace"), f"is not an event: {error}") from error


async def _push(url: str, batches: Iterable[list[Event]]) -> Appended:
    total = dict.fromkeys(asdict(Appended()), 0)
    async with HttpClient(url, deadline_s=60.0, credentials=ClientSettings().credentials()) as client:
        for batch in batches:
            for name, count in asdict(await _patiently(client, batch)).items():
                total[name] += count
    return Appended(**total)


async def _patiently(client: HttpClient, batch: list[Event]) -> Appended:
    """Again and again while the door says that it is full."""
    while True:
        try:
            return await client.append(batch)
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_s)


def _print(found: Appended) -> None:
    print(json.dumps(asdict(found)))
