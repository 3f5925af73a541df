"""`repcenter offline` and `table load --from offline` against a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from cli.main import app
from contracts.errors import Conflict
from param_server.embedded import EmbeddedServer
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.param_server.samples import make_space, make_window
from tests.realtime_infer.sinks import Pushes, follows, quick, sinking, written


def run(server: EmbeddedServer, *words: str, fails: bool = False) -> dict[str, Any]:
    result = CliRunner(env={"REPCENTER_REDIS_URL": server.url}).invoke(app, [*words, "--json"])
    if fails:
        assert isinstance(result.exception, Conflict), result
    else:
        assert result.exit_code == 0, (result.stdout, result.exception)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture
def var(settings: StoreSettings) -> Path:
    return settings.var_dir


async def test_looked_at_proven_compacted_and_loaded_again(
    server: EmbeddedServer, redis: Redis, settings: StoreSettings, var: Path
) -> None:

    space = make_space(dim=4)
    await Store(redis).create_space(space)
    table, pushes = OfflineTable(str(var / "offline")), Pushes(redis, space)
    async with sinking(quick(var / "offline", sink_roll_s=0.02), settings):
        await follows(table, space)
        for i in range(10):
            await pushes.push("a", f"i{i}")
            await written(redis, table, space)
        await pushes.push("i3", delete=True)
        await written(redis, table, space)

    async def command(*words: str, fails: bool = False) -> dict[str, Any]:
        return await asyncio.to_thread(run, server, *words, "--var", str(var), fails=fails)

    (state,) = (await command("offline", "inspect"))["spaces"]
    assert state["files"] >= 10
    assert (state["rows"], state["lag_s"], state["holes"]) == (21, 0, [])
    (check,) = (await command("offline", "verify"))["spaces"]
    assert (check["checked"], check["scanned"], check["agrees"]) == (11, 11, True)
    (report,) = (await command("offline", "compact"))["spaces"]
    assert (report["written"], report["rows"]) == (1, 21)
    (check,) = (await command("offline", "verify", "--sample", "5"))["spaces"]
    assert check["agrees"]

    await redis.flushall()
    await Store(redis).create_space(space)
    (check,) = (await command("offline", "verify", fails=True))["spaces"]
    assert check["missing"] == 11
    loaded = await command("table", "load", "--from", "offline")
    assert loaded["committed"] == 11
    (check,) = (await command("offline", "verify"))["spaces"]
    assert check["agrees"]
    ids, records = table.read(space)
    fetched = await Store(redis).fetch(space, None, ids)
    assert fetched.found.all()
    assert fetched.records.tobytes() == records.tobytes()

    late = make_window(space, ["late"], [1000])
    await Store(redis).commit_window(late)
    await Store(redis).commit_window(make_window(space, ["i1"], [1001]))
    (check,) = (await command("offline", "verify", fails=True))["spaces"]
    assert (check["absent"], check["stale"]) == (1, 1)
    await pushes.windows.announce(late)
    await pushes.windows.announce(make_window(space, ["i1"], [1001]))
    (check,) = (await command("offline", "verify"))["spaces"]
    assert (check["in_flight"], check["agrees"]) == (2, True)


async def test_a_hole_between_files_is_told(
    server: EmbeddedServer, redis: Redis, settings: StoreSettings, var: Path
) -> None:
    """A file of windows that somebody deleted: its items were pushed again, so only the names tell."""
    space = make_space(dim=4)
    await Store(redis).create_space(space)
    table, pushes = OfflineTable(str(var / "offline")), Pushes(redis, space)
    async with sinking(quick(var / "offline", sink_roll_s=0.01), settings):
        for _ in range(4):
            await pushes.push("a")
            await written(redis, table, space)
    names = [name for name in table.files.names(space.id) if name.startswith("windows-")]
    table.files.delete(space.id, names[2:3])

    words = ("offline", "verify", "--var", str(var))
    found = await asyncio.to_thread(run, server, *words, fails=True)
    (check,) = found["spaces"]
    assert (len(check["holes"]), check["stale"]) == (1, 0)
