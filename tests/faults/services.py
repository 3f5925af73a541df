"""`repcenter door|worker|sink|scorer` as processes that are killed, always come back on their ports."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.realtime_infer.workers import until

ROOT = Path(__file__).parent.parent.parent
_LOOK_S = 0.05


class Service:
    """One command of the stack. A context manager; started by start()."""

    def __init__(self, command: str, log: Path, settings: Mapping[str, object]) -> None:
        self._command, self._log = command, log
        http_port, grpc_port = _free_ports()
        self.url = f"http://127.0.0.1:{http_port}"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("REPCENTER_")},
            "OMP_NUM_THREADS": "1",
            "REPCENTER_HTTP_PORT": str(http_port),
            "REPCENTER_GRPC_PORT": str(grpc_port),
            **{f"REPCENTER_{key.upper()}": str(value) for key, value in settings.items()},
        }
        self._running: subprocess.Popen[bytes] | None = None
        self.wanted = False

    def start(self) -> None:
        """Also in place of a process that has ended."""
        self.wanted = True
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, "-m", "cli.main", self._command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """kill -9."""
        self.wanted = False
        if self._running is not None:
            self._running.kill()
            self._running.wait()

    @property
    def fell(self) -> bool:
        """Whether it ended by itself."""
        return self.wanted and self._running is not None and self._running.poll() is not None

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Until it says that it is; the end of its log where it does not."""

        async def says() -> bool:
            try:
                return (await client.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        async with httpx.AsyncClient(base_url=self.url, timeout=5) as client:
            try:
                await until(says, timeout_s)
            except TimeoutError as error:
                raise AssertionError(f"{self._command} is not ready:\n{self.said()}") from error

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


async def supervise(services: Sequence[Service]) -> None:
    """Start again what ends by itself, as an init system does. For ever."""
    while True:
        for service in services:
            if service.fell:
                service.start()
        await asyncio.sleep(_LOOK_S)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
