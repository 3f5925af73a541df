"""A real server that is killed, emptied, stopped and started again, always behind the same socket."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from param_server.embedded import EmbeddedServer


class FaultyServer:
    """A context manager; runs when it is made."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="rc-"))  # short: the socket lies in it
        self._server = EmbeddedServer.start(self._directory)
        self.url = self._server.url

    @property
    def socket(self) -> Path:
        return Path(self.url.removeprefix("unix://"))

    def kill(self) -> None:
        """kill -9."""
        self._server.kill()

    def empty(self) -> None:
        """Delete all that it has written, once it is dead."""
        assert not self._server.running
        shutil.rmtree(self._directory)

    def start(self) -> None:
        self._server = EmbeddedServer.start(self._directory)
        assert self._server.url == self.url

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        os.kill(self._server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
