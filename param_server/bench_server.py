"""Servers for benchmarks: those that are installed, each started empty on a loopback port."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from param_server.embedded import EmbeddedServer, find_binary


def servers() -> dict[str, Path]:
    """Name and version -> binary: the embedded server, and redis-server where it is another."""
    found: dict[str, Path] = {}
    for binary in (find_binary(), shutil.which("redis-server")):
        if binary is not None:
            said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
            version = re.search(r"v=(\S+)", said)
            name = "valkey" if "valkey" in said.lower() else "redis"
            found.setdefault(f"{name} {version[1] if version else ''}", Path(binary))
    return found


@contextmanager
def serving(folder: Path, binary: Path, *more: str) -> Iterator[tuple[str, str]]:
    """A server on a free loopback port, so that every client reaches it in the same way -> URL, host:port.
    more: further arguments of its command line. Killed at the end: what it holds is of no use to anybody."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    args = ("--port", address.split(":")[1], "--bind", "127.0.0.1", *more)
    server = EmbeddedServer.start(folder / uuid.uuid4().hex, binary=binary, extra_args=args)
    try:
        yield f"redis://{address}", address
    finally:
        server.kill()
