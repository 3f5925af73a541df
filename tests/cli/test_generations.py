"""`repcenter generations` over a server that holds two generations."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from typer.testing import CliRunner

from cli.main import app
from contracts.bundle import seal, write_golden
from contracts.codec import ID_INT8
from contracts.errors import RepcenterError
from contracts.manifest import Generation, IdTable
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.id_rows import write_id_rows
from param_server.store import Store
from tests.param_server.samples import (
    make_generation,
    make_id_rows,
    make_space,
    make_window,
    ranker_content,
    seal_ranker,
)

ITEMS = [f"item-{n}" for n in range(20)]


@dataclass(frozen=True)
class Answer:
    """Of one command: its status as `main` would give it."""

    status: int
    stdout: str
    stderr: str


async def run(server: EmbeddedServer, *words: str, status: int = 0) -> Answer:
    """In a thread of this process: fifteen interpreters would take half a minute."""
    environment = {"COLUMNS": "200", "REPCENTER_REDIS_URL": server.url}
    result = await asyncio.to_thread(CliRunner().invoke, app, ["generations", *words], env=environment)
    stderr = result.stderr
    if isinstance(result.exception, RepcenterError):
        stderr += str(result.exception)
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, stderr
    return Answer(result.exit_code, result.stdout, stderr)


async def answer(server: EmbeddedServer, *words: str, status: int = 0) -> Any:
    return json.loads((await run(server, *words, "--json", status=status)).stdout)


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

    different = await answer(server, "diff", old.id, new.id)
    facts = {d["fact"]: (d["first"], d["second"]) for d in different["differences"]}
    assert facts["coverage.content"] == (1.0, 0.5)
    assert different["coverage"] == {"catalogue": f"live items of space {old.space.id}", "items": 20}
    assert facts["id_table.name"] == ("old", "new")
    assert "space.live" in (await run(server, "diff", old.id, new.id)).stdout

    refused = await run(server, "check", new.id, status=1)
    assert "gate golden replay" in refused.stderr  # the sample's graph is no graph
    assert "10 of 20 live items" in refused.stdout
    document = await answer(server, "check", new.id, "--min-coverage", "0.5", status=1)
    assert [gate["passed"] for gate in document["gates"]] == [False, True, True]
    assert not document["passed"]

    assert "--reason" in (await run(server, "activate", new.id, "--force", status=2)).stderr
    assert "gate" in (await run(server, "activate", new.id, status=1)).stderr
    assert (await Generations(redis).scenes())["default"].generation_id == old.id
    moved = await answer(server, "activate", new.id, "--force", "--reason", "[bold]a drill", "--by", "ann")
    assert moved["generation_id"] == new.id
    assert moved["forced"]

    lines = await answer(server, "log", "default")
    assert [(line["from"], line["to"], line["forced"]) for line in lines] == [
        (old.id, new.id, "[bold]a drill"),
        (None, old.id, None),
    ]
    assert lines[0]["by"] == "ann"
    assert len(lines[0]["gates"]) == 3
    assert "[bold]a drill" in (await run(server, "log", "default")).stdout

    planned = await answer(server, "collect", "--dry-run", "--keep", "0", "--grace", "0")
    assert {part["name"] for part in planned["would_collect"]} == {old.id, old.space.id, "old"}
    assert await Generations(redis).get(old.id) == old
    await run(server, "pin", old.space.id[:9], "--reason", "compare later")
    done = await answer(server, "collect", "--keep", "0", "--grace", "0")
    assert {part["name"] for part in done["collected"]} == {old.id, "old"}
    assert {"kind": "space", "name": old.space.id, "why": "pinned: compare later"} in done["kept"]
    assert (await run(server, "unpin", old.space.id)).stdout == f"unpinned space {old.space.id}\n"
    (listed,) = await answer(server, "list")
    assert listed["generation"] == new.id
    assert listed["scenes"] == ["default"]
    assert "earlier generation" in (await run(server, "roll-back", status=1)).stderr


async def test_canary_promote_and_abort(redis: Redis, server: EmbeddedServer, tmp_path: Path) -> None:
    old = await published(redis, tmp_path, "old", 20)
    new = await published(redis, tmp_path, "new", 19)
    await Generations(redis).activate("default", old.id)
    assert "gate" in (await run(server, "canary", new.id, "--share", "5%", status=1)).stderr
    forced = ("--force", "--reason", "a drill")
    for share in ("five", "0", "100%"):
        assert "share" in (await run(server, "canary", new.id, "--share", share, *forced, status=1)).stderr
    tried = await answer(server, "canary", new.id, "--share", "5%", *forced)
    assert tried["canary"] == {"generation_id": new.id, "share": 0.05, "salt": new.id}
    listed = {g["generation"]: g["canary_of"] for g in await answer(server, "list")}
    assert listed == {old.id: {}, new.id: {"default": 0.05}}
    assert "0.05 of default" in (await run(server, "list")).stdout
    assert (
        f"revision 3; 0.5 of users get {new.id}"
        in (await run(server, "canary", new.id, "--share", "0.5", *forced)).stdout
    )
    assert "canary 0.5" in (await run(server, "log")).stdout
    assert (await answer(server, "abort"))["canary"] is None
    assert "has no canary" in (await run(server, "promote", status=1)).stderr
    await run(server, "canary", new.id, "--share", "0.5", *forced)
    assert (await answer(server, "promote"))["generation_id"] == new.id
    assert f"generation {old.id}" in (await run(server, "roll-back")).stdout


async def test_publish_export_and_import(redis: Redis, server: EmbeddedServer, tmp_path: Path) -> None:
    """What a lost table server is rebuilt by, with the records that are loaded before."""
    store, space = Store(redis), make_space()
    window = make_window(space, ITEMS, [1] * len(ITEMS))
    await store.create_space(space)
    await store.commit_window(window)
    (tmp_path / "r").mkdir()
    write_golden(tmp_path / "r", {})
    write_id_rows(tmp_path / "r" / "id_rows.parquet", ITEMS[:3], make_id_rows(3))
    seal(tmp_path / "r", "ranker", ranker_content(space, 3))
    words = ("publish", str(tmp_path / "r"), "--to", str(tmp_path / "bundles"))
    assert "must name the bundle" in (await run(server, *words, status=1)).stderr
    made = await answer(server, *words, "--encoder", "")
    assert made["ranker"]["uri"].startswith(f"file://{tmp_path}/bundles/ranker-")
    assert (await answer(server, *words))["generation"] == made["generation"]
    await Generations(redis).activate("home", made["generation"])
    said = (await run(server, "export", str(tmp_path / "published.json"))).stdout
    assert said.startswith("1 generations, 1 scenes and 0 pins in ")

    await redis.flushall()
    await redis.script_flush()
    refused = await run(server, "import", str(tmp_path / "published.json"), status=1)
    assert f"no space '{space.id}'" in refused.stdout
    await store.create_space(space)
    await store.commit_window(window)
    restored = await answer(server, "import", str(tmp_path / "published.json"), "--by", "ann")
    assert restored == {
        "generations": [made["generation"]],
        "scenes": ["home"],
        "pins": [],
        "failures": {},
    }
    assert (await answer(server, "log", "home"))[0]["action"] == "restore"
    assert "cannot be read" in (await run(server, "import", str(tmp_path / "none"), status=1)).stderr
