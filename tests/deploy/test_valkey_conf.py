"""deploy/valkey.conf: a real server takes it, and the write door's own start-up checks accept the result."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.errors import Unavailable
from param_server.connection import connect_one
from param_server.embedded import find_binary
from param_server.server_checks import check_durable, check_layout, check_policy
from param_server.settings import StoreSettings

CONF = Path(__file__).parents[2] / "deploy" / "valkey.conf"


@pytest_asyncio.fixture
async def configured() -> AsyncIterator[Redis]:
    """A client of a server that runs with the file, on a socket in place of its port."""
    folder = Path(tempfile.mkdtemp(prefix="rc-conf-"))  # short: a socket's path has 104 bytes at most
    socket = folder / "s"
    command = [
        str(find_binary()),
        str(CONF),
        "--dir",
        str(folder),
        "--port",
        "0",
        "--unixsocket",
        str(socket),
    ]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    client = connect_one(f"unix://{socket}", StoreSettings())
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            await asyncio.sleep(0.01)
        yield client
    finally:
        await client.aclose()
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


async def test_the_doors_checks_accept_it(configured: Redis) -> None:
    assert await check_durable(configured) == "always"
    await check_policy(configured)
    await check_layout(configured, 8_192)
    expected = {"save": "", "maxmemory-policy": "noeviction", "protected-mode": "no"}
    found = {name: (await configured.config_get(name))[name] for name in expected}
    assert found == expected


@pytest.mark.parametrize(("name", "value"), [("appendonly", "no"), ("appendfsync", "no")])
async def test_the_checks_would_see_a_line_that_is_missing(configured: Redis, name: str, value: str) -> None:
    await configured.config_set(name, value)
    with pytest.raises(Unavailable, match=name):
        await check_durable(configured)
