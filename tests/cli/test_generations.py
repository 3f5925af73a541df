"""`repcenter generations` as a user runs it: processes over a server that holds two generations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.manifest import Generation, IdTable
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.store import Store
from tests.param_server.samples import make_generation, make_id_rows, make_space, make_window, seal_ranker

ROOT = Path(__file__).parent.parent.parent
ITEMS = [f"item-{n}" for n in range(20)]


def run(server: EmbeddedServer, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPCENTER_")}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "generations", *words],
        cwd=ROOT,
        env=environment | {"COLUMNS": "200", "REPCENTER_REDIS_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def answer(server: EmbeddedServer, *words: str, status: int = 0) -> Any:
    return json.loads(run(server, *words, "--json", status=status).stdout)


async def published(redis: Redis, folder: Path, name: str, covered: int) -> Generation:
    store, space, table = Store(redis), make_space(), IdTable(name, ID_INT8, 16, 3)
    await store.create_space(space)
    await store.commit_window(make_window(space, ITEMS[:covered], [1] * covered))
    await store.load_id_rows(table, ITEMS[:3], make_id_rows(3))
    await store.seal_id_table(table)
    generation = make_generation(seal_ranker(folder / name, space, 3), space, table, covered)
    await Generations(redis).publish(generation)
    return generation


async def test_check_force_log_diff_and_collect(redis: Redis, server: EmbeddedServer, tmp_path: Path) -> None:
    old = await published(redis, tmp_path, "old", 20)
    new = await published(redis, tmp_path, "new", 10)
    await Generations(redis).activate("default", old.id)

    different = answer(server, "diff", old.id, new.id)
    facts = {d["fact"]: (d["first"], d["second"]) for d in different["differences"]}
    assert facts["coverage.content"] == (1.0, 0.5)
    assert different["coverage"] == {"catalogue": f"live items of space {old.space.id}", "items": 20}
    assert facts["id_table.name"] == ("old", "new")
    assert "space.live" in run(server, "diff", old.id, new.id).stdout

    refused = run(server, "check", new.id, status=1)
    assert "gate golden replay" in refused.stderr  # the sample's graph is no graph
    assert "10 of 20 live items" in refused.stdout
    document = answer(server, "check", new.id, "--min-coverage", "0.5", status=1)
    assert [gate["passed"] for gate in document["gates"]] == [False, True, True]
    assert not document["passed"]

    assert "--reason" in run(server, "activate", new.id, "--force", status=2).stderr
    assert "gate" in run(server, "activate", new.id, status=1).stderr
    assert (await Generations(redis).scenes())["default"].generation_id == old.id
    moved = answer(server, "activate", new.id, "--force", "--reason", "[bold]a drill", "--by", "ann")
    assert moved["generation_id"] == new.id
    assert moved["forced"]

    lines = answer(server, "log", "default")
    assert [(line["from"], line["to"], line["forced"]) for line in lines] == [
        (old.id, new.id, "[bold]a drill"),
        (None, old.id, None),
    ]
    assert lines[0]["by"] == "ann"
    assert len(lines[0]["gates"]) == 3
    assert "[bold]a drill" in run(server, "log", "default").stdout

    planned = answer(server, "collect", "--dry-run", "--keep", "0", "--grace", "0")
    assert {part["name"] for part in planned["would_collect"]} == {old.id, old.space.id, "old"}
    assert await Generations(redis).get(old.id) == old
    run(server, "pin", old.space.id[:9], "--reason", "compare later")
    done = answer(server, "collect", "--keep", "0", "--grace", "0")
    assert {part["name"] for part in done["collected"]} == {old.id, "old"}
    assert {"kind": "space", "name": old.space.id, "why": "pinned: compare later"} in done["kept"]
    assert run(server, "unpin", old.space.id).stdout == f"unpinned space {old.space.id}\n"
    (listed,) = answer(server, "list")
    assert listed["generation"] == new.id
    assert listed["scenes"] == ["default"]
    assert "earlier generation" in run(server, "roll-back", status=1).stderr
