"""A process with all that it started: what it costs, stopped while another is measured, gone in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from cli.served import cpu_seconds
from contracts.errors import Unavailable


class ProcessTree:
    """Linux only. A server that forks is one tree, also where its workers have sessions of their own."""

    def __init__(self, root: int) -> None:
        """Raises Unavailable where processes cannot be listed."""
        if sys.platform != "linux":
            raise Unavailable("the processes of another server are followed on Linux only")
        self._root = root

    def pids(self) -> list[int]:
        """The root first, parents before their children."""
        children = defaultdict(list)
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                # After the name, which may hold anything: the state and the parent.
                children[int(file.read_text().rpartition(")")[2].split()[1])].append(int(file.parent.name))
        found = [self._root]
        for pid in found:
            found += children[pid]
        return found

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds so far by process, all threads."""
        taken = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                taken[pid] = cpu_seconds(pid)
        return taken

    def since(self, before: dict[int, float]) -> float:
        """CPU seconds of the whole tree since an answer of cpu_s()."""
        return sum(taken - before.get(pid, 0.0) for pid, taken in self.cpu_s().items())

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """All of it at once: a worker that outlives its supervisor would have another parent."""
        self.pause()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that whoever started processes ends them. For the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
