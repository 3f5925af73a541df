"""A scorer as a process of its own on cores of its own, and what it costs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import Unavailable

_START_S = 90.0


@dataclass(frozen=True)
class Cores:
    """Where the server and its clients run; None where this machine cannot keep them apart."""

    server: int | None
    client: int | None


def cores() -> Cores:
    """Two different ones of those that this process may use."""
    if sys.platform != "linux":
        return Cores(None, None)
    ours = sorted(os.sched_getaffinity(0))
    return Cores(ours[0], ours[1]) if len(ours) > 1 else Cores(None, None)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """This thread, and processes that it starts, on one core for as long as the context lasts."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, all threads. OSError where it is gone, Unavailable but on Linux."""
    if sys.platform == "linux":  # the process's CPU clock by its id: nanoseconds
        return time.clock_gettime((~pid << 3) | 2)
    raise Unavailable("the CPU time of another process is read on Linux only")


class Served:
    """A running scorer. http_url, grpc_target: of its doors."""

    def __init__(self, process: subprocess.Popen[bytes], http_url: str, grpc_target: str) -> None:
        self._process = process
        self.http_url, self.grpc_target = http_url, grpc_target

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU seconds of the process so far, all threads."""
        return cpu_seconds(self._process.pid)


@contextlib.contextmanager
def served(redis_url: str, var: Path, core: int | None, settings: Mapping[str, object]) -> Iterator[Served]:
    """A scorer over this server, ready. settings: of serving.settings, by environment variable."""
    var.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "REPCENTER_REDIS_URL": redis_url,
        "REPCENTER_VAR_DIR": str(var),
        "REPCENTER_HTTP_PORT": "0",
        "REPCENTER_GRPC_PORT": "0",
        "REPCENTER_DRAIN_S": "0",
        **{name: str(value) for name, value in settings.items()},
    }
    errors = var / "scorer.log"
    with on_core(core), errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "scorer"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        deadline, said = time.monotonic() + _START_S, b""
        while b"\nready " not in said:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"the scorer did not start: {errors.read_text(errors='replace')[-500:]}")
            said += process.stdout.read() or b""
            time.sleep(0.02)
        where = dict(word.split("=", 1) for word in said.split(b"\nready ")[1].decode().split())
        yield Served(process, where["http"], where["grpc"])
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
