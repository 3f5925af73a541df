from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from redis import Redis as SyncRedis

from contracts.errors import Unavailable
from param_server import embedded
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.param_server.samples import make_space, make_window


def client(server: EmbeddedServer) -> SyncRedis:
    return SyncRedis(unix_socket_path=server.url.removeprefix("unix://"))


def test_a_stopped_server_has_everything_again(tmp_path: Path) -> None:
    with EmbeddedServer.start(tmp_path) as server, client(server) as redis:
        redis.set("k", "v")
        pid = server.pid
    assert not server.running
    with EmbeddedServer.start(tmp_path) as again, client(again) as redis:
        assert again.pid != pid
        assert redis.get("k") == b"v"
    again.stop()
    again.kill()  # both are harmless on a server that has ended


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    space, items = make_space(), [f"{i}" for i in range(20)]
    acknowledged: dict[str, int] = {}
    sequence = 0
    for attempt in range(3):
        server = EmbeddedServer.start(tmp_path)
        async with connect(server.url, StoreSettings()) as redis:
            store = Store(redis)
            await store.create_space(space)
            killer = threading.Timer(0.05 + 0.05 * attempt, server.kill)
            killer.start()
            generator = random.Random(attempt)
            try:
                while sequence < 100_000:
                    sequence += 1
                    chosen = generator.sample(items, 5)
                    await store.commit_window(make_window(space, chosen, [sequence] * 5, seed=sequence))
                    acknowledged.update(dict.fromkeys(chosen, sequence))
            except Unavailable:
                await asyncio.to_thread(killer.join)
            assert not server.running
        with EmbeddedServer.start(tmp_path) as again:
            async with connect(again.url, StoreSettings()) as redis:
                stored = dict(zip(items, await Store(redis).sequences(space, items), strict=True))
                live = await Store(redis).count(space)
        assert all(stored[item] >= newest for item, newest in acknowledged.items())
        assert all(stored[item] in (acknowledged.get(item, 0), sequence) for item in items)
        assert live == sum(s > 0 for s in stored.values())
    assert sequence > 20


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from param_server.embedded import EmbeddedServer\n"
        "server = EmbeddedServer.start(Path(sys.argv[1])); print(server.pid, server.url, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as stdout:
        _, url = stdout.readline().split()
    with SyncRedis(unix_socket_path=url.removeprefix("unix://")) as redis:
        redis.set("k", "v")
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    # the directory's lock is held for as long as the old server lives
    with EmbeddedServer.start(tmp_path) as server, client(server) as redis:
        assert redis.get("k") == b"v"


def test_it_is_stopped_when_its_parent_exits_and_never_by_a_fork(tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 30)  # its socket lies in a folder of its own
    script = (
        "import os, sys; from pathlib import Path; from param_server.embedded import EmbeddedServer\n"
        "server = EmbeddedServer.start(Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0); assert server.running\n"
        "assert os.path.exists(server.url.removeprefix('unix://')); print('still running', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "still running\n"
    assert "bye bye" in (directory / "valkey.log").read_text()


def test_two_servers_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOCK_S", 0.1)
    with EmbeddedServer.start(tmp_path) as server, client(server) as redis:
        with pytest.raises(Unavailable, match="another server runs over"):
            EmbeddedServer.start(tmp_path)
        assert redis.ping()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ended with status"):
        EmbeddedServer.start(tmp_path, extra_args=("--no-such-option", "1"))
    EmbeddedServer.start(tmp_path).stop()  # and leaves no lock behind


def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 30)
    with EmbeddedServer.start(directory) as server, client(server) as redis:
        socket = Path(server.url.removeprefix("unix://"))
        redis.set("k", "v")
        assert len(str(socket)) < 100
    assert not socket.parent.exists()
    with EmbeddedServer.start(directory) as server, client(server) as redis:
        assert redis.get("k") == b"v"


def test_a_server_started_in_a_thread_outlives_it(tmp_path: Path) -> None:
    servers: list[EmbeddedServer] = []
    thread = threading.Thread(target=lambda: servers.append(EmbeddedServer.start(tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with servers[0] as server, client(server) as redis:
        assert redis.ping()


def test_a_server_of_the_path_is_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = embedded.find_binary()
    assert os.access(real, os.X_OK)
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="REPCENTER_REDIS_URL"):
        embedded.find_binary()
    (tmp_path / "redis-server").symlink_to(real)
    assert embedded.find_binary() == tmp_path / "redis-server"
