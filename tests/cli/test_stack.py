"""`repcenter up` over two servers whose users are our roles."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import httpx
import pytest

from cli.shelf import running_endpoints, shelf, stream_url
from cli.stack import Stack, shown
from param_server.connection import connect_one
from param_server.settings import StoreSettings
from realtime_infer.stream_keys import Partition
from tests.access import PASSWORDS, guarded, url_of

PARTITIONS = 8  # of a new stream


async def length(url: str) -> int:
    """Entries of all partitions of the push stream."""
    async with connect_one(url, StoreSettings()) as redis:
        return sum([int(await redis.xlen(Partition(number).pushes)) for number in range(PARTITIONS)])


async def test_a_stack_pushes_to_the_streams_server_and_shows_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    var = tmp_path / "var"
    with guarded(tmp_path) as servers:
        tables, streams = (url_of(server, "admin") for server in (servers.tables, servers.streams))
        monkeypatch.setenv("REPCENTER_REDIS_URL", tables)
        monkeypatch.setenv("REPCENTER_STREAM_URL", streams)
        stack = Stack(var, tables)
        (var / "logs").mkdir(parents=True)
        try:
            stack.launch("door")
            stack.tell()
            stack.wait_ready(("door",))
            pushed = httpx.post(f"{stack.endpoints.door_http}/v1/items", json={"item_id": "a", "title": "b"})
            assert pushed.status_code == 202, pushed.text
            assert (await length(tables), await length(streams)) == (0, 1)

            file = var / "endpoints.json"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            password = PASSWORDS["admin"].replace(" ", "%20")
            assert password in file.read_text()
            assert password not in json.dumps(shown(stack.endpoints))
            assert password not in (var / "logs" / "door.log").read_text()

            monkeypatch.delenv("REPCENTER_REDIS_URL")
            monkeypatch.delenv("REPCENTER_STREAM_URL")
            assert running_endpoints(var)["redis_url"] == tables
            assert stream_url(var) == streams  # a command finds both of the stack that runs
        finally:
            stack.stop()


def test_one_server_for_both_is_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPCENTER_REDIS_URL", raising=False)
    monkeypatch.delenv("REPCENTER_STREAM_URL", raising=False)
    Stack(tmp_path, "redis://127.0.0.1:1/0").tell()
    assert stream_url(tmp_path) is None
    monkeypatch.setenv("REPCENTER_REDIS_URL", "redis://127.0.0.1:2/0")
    assert stream_url(tmp_path) is None
    with shelf(tmp_path) as url:
        assert url == "redis://127.0.0.1:2/0"
