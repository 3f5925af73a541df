"""`repcenter dlq` as a process, over a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from contracts.errors import InvalidInput
from contracts.items import Item
from param_server.embedded import EmbeddedServer
from realtime_infer.delivery import Settlement
from realtime_infer.ingest import Ingest
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings

PICTURE = b"\x89PNG not a picture" * 1_000


async def died(redis: Redis, count: int) -> Ingest:
    settings = EncoderSettings(consumer="test")
    ingest, queue = Ingest(redis, settings), PushQueue(redis, settings)
    for n in range(count):
        await ingest.push(Item(f"[red]film {n}", {"title": "x"}, image=PICTURE))
    await queue.open()
    while batch := await queue.read():
        error = InvalidInput("image", "x", "is not a readable picture")
        await queue.settle([Settlement(delivery, PushState.DEAD, error) for delivery in batch])
    return ingest


def command(server: EmbeddedServer, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REPCENTER_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "dlq", *words],
        env={**environment, "REPCENTER_REDIS_URL": server.url, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_letters_are_listed_shown_replayed_and_dropped(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    ingest = await died(redis, 4)
    listed = json.loads(command(server, "list", "--json").stdout)
    assert sorted(letter["item_id"] for letter in listed) == [f"[red]film {n}" for n in range(4)]
    readable = command(server, "list", "--item", "[red]film 2").stdout
    assert "'[red]film 2'" in readable
    assert "not a readable picture" in readable
    name = listed[0]["name"]
    shown = command(server, "show", name, "--image", str(tmp_path / "picture"), "--json")
    assert json.loads(shown.stdout)["push"]["text"] == {"title": "x"}
    assert (tmp_path / "picture").read_bytes() == PICTURE
    assert f"{len(PICTURE)}" in command(server, "show", name).stdout

    await ingest.push(Item(listed[1]["item_id"], {"title": "newer"}))
    replayed = command(server, "replay", "--code", "invalid", "--json")
    assert replayed.returncode == 1
    assert "passed over" in replayed.stderr
    outcomes = {outcome["letter"]: outcome for outcome in json.loads(replayed.stdout)}
    assert [outcomes[letter["name"]]["done"] for letter in listed] == [True, False, True, True]
    assert (await ingest.backlog()).entries == 4
    assert command(server, "drop", "--all").returncode == 0
    assert json.loads(command(server, "list", "--json").stdout) == []


@pytest.mark.parametrize("words", [("replay",), ("drop",), ("replay", "0:1-1", "--all"), ("show", "x")])
async def test_what_is_not_named_clearly_is_refused(
    server: EmbeddedServer, redis: Redis, words: tuple[str, ...]
) -> None:
    done = command(server, *words)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
