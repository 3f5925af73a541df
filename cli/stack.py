"""The stack as processes: Valkey (unless REPCENTER_REDIS_URL), scorer, write door, encoder, worker, sink."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from cli.shelf import ENDPOINTS_FILE, shelf
from contracts.errors import Unavailable
from param_server.connection import redacted
from param_server.settings import StoreSettings

_HOST = "127.0.0.1"
_STOP_S = 20.0
_POLL_S = 0.05
PORTS = {
    "scorer_http": 8080,
    "scorer_grpc": 50051,
    "door_http": 8081,
    "door_grpc": 50052,
    "encoder_http": 8082,
    "encoder_grpc": 50053,
    "worker_http": 9090,
    "sink_http": 9091,
}


@dataclass(frozen=True)
class Endpoints:
    """Where the parts of a running stack listen; also written to <var>/endpoints.json, for its owner only,
    since URLs may hold passwords. stream_url: that of the tables where one server has both."""

    redis_url: str
    stream_url: str
    scorer_http: str
    scorer_grpc: str
    door_http: str
    door_grpc: str
    encoder_http: str
    encoder_grpc: str
    worker_http: str
    sink_http: str


class Stack:
    """Child processes over one Redis, one of each service. Their output goes to <var>/logs.

    workers: how many; the second is `worker-2`, and so on. settings: environment of all services, over the
    caller's.
    """

    def __init__(
        self,
        var: Path,
        redis_url: str,
        *,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        ports = {name: _port(preferred) for name, preferred in PORTS.items()}
        self._var = var
        self._settings = dict(settings or {})
        self.endpoints = Endpoints(
            redis_url=redis_url,
            stream_url=StoreSettings().stream_url or redis_url,
            scorer_http=f"http://{_HOST}:{ports['scorer_http']}",
            scorer_grpc=f"{_HOST}:{ports['scorer_grpc']}",
            door_http=f"http://{_HOST}:{ports['door_http']}",
            door_grpc=f"{_HOST}:{ports['door_grpc']}",
            encoder_http=f"http://{_HOST}:{ports['encoder_http']}",
            encoder_grpc=f"{_HOST}:{ports['encoder_grpc']}",
            worker_http=f"http://{_HOST}:{ports['worker_http']}",
            sink_http=f"http://{_HOST}:{ports['sink_http']}",
        )
        self._services = {
            "scorer": (ports["scorer_http"], ports["scorer_grpc"]),
            "door": (ports["door_http"], ports["door_grpc"]),
            "encoder": (ports["encoder_http"], ports["encoder_grpc"]),
            "worker": (ports["worker_http"], 0),
            "sink": (ports["sink_http"], 0),
            **{f"worker-{n}": (_port(0), 0) for n in range(2, workers + 1)},
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start every service and write endpoints.json; `wait_ready` says when they serve."""
        (self._var / "logs").mkdir(parents=True, exist_ok=True)
        for name in self._services:
            self.launch(name)
        self.tell()

    def tell(self) -> None:
        """Write endpoints.json."""
        path = self._var / ENDPOINTS_FILE
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(asdict(self.endpoints), indent=2) + "\n")

    def launch(self, name: str) -> None:
        """Start one service on its ports, in place of a process that has ended."""
        http_port, grpc_port = self._services[name]
        environment = {
            **os.environ,
            "REPCENTER_REDIS_URL": self.endpoints.redis_url,
            "REPCENTER_VAR_DIR": str(self._var),
            "REPCENTER_HOST": _HOST,
            "REPCENTER_HTTP_PORT": str(http_port),
            "REPCENTER_GRPC_PORT": str(grpc_port),
            **self._settings,
        }
        if name == "scorer":
            environment.setdefault("REPCENTER_ENCODER_TARGET", self.endpoints.encoder_grpc)
        command = name.partition("-")[0]
        if command != name:
            environment["REPCENTER_CONSUMER"] = name
        with (self._var / "logs" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "cli.main", command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL one service."""
        self._processes[name].kill()
        self._processes[name].wait()

    def pause(self, name: str) -> None:
        """SIGSTOP one service: it keeps its connections and does nothing."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._processes[name].send_signal(signal.SIGCONT)

    def wait_ready(
        self, names: tuple[str, ...] = ("door", "scorer", "worker"), timeout_s: float = 60.0
    ) -> None:
        """Until each named service says ready. Raises Unavailable with the end of its log otherwise."""
        urls = {name: f"http://{_HOST}:{http_port}" for name, (http_port, _) in self._services.items()}
        deadline = time.monotonic() + timeout_s
        for name in names:
            while not answers_http(f"{urls[name]}/health/ready"):
                self.check()
                if time.monotonic() > deadline:
                    raise Unavailable(f"{name} is not ready after {timeout_s:g} s:\n{self._tail(name)}")
                time.sleep(_POLL_S)

    def check(self) -> None:
        """Raises Unavailable where a service has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Unavailable(f"{name} ended with status {process.returncode}:\n{self._tail(name)}")

    def stop(self) -> None:
        """SIGTERM to all (they drain), SIGKILL to those that take too long."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        (self._var / ENDPOINTS_FILE).unlink(missing_ok=True)

    def _tail(self, name: str) -> str:
        log = self._var / "logs" / f"{name}.log"
        return log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""


@contextlib.contextmanager
def running_stack(
    var: Path, redis_url: str, *, workers: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """A started stack that is stopped at the end, whatever happens."""
    stack = Stack(var, redis_url, workers=workers, settings=settings)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def wait_for_signal(stack: Stack) -> None:
    """Until SIGINT or SIGTERM, or until a service ends by itself (Unavailable)."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    while not stopped:
        stack.check()
        time.sleep(0.2)


def run_stack(var: Path) -> None:
    """`repcenter up`: start everything, say where it listens, stop it all on a signal."""
    console = Console()
    with shelf(var) as redis_url, running_stack(var, redis_url) as stack:
        stack.wait_ready(("door",))
        console.print_json(json.dumps(shown(stack.endpoints)))
        console.print("The scorer and the worker are ready once a generation is active. Ctrl-C stops.")
        wait_for_signal(stack)


def shown(endpoints: Endpoints) -> dict[str, str]:
    """What may be printed: no password."""
    return {name: redacted(url) if name.endswith("_url") else url for name, url in asdict(endpoints).items()}


def answers_http(url: str) -> bool:
    """Whether a GET of this URL gives 200 now."""
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _port(preferred: int) -> int:
    """`preferred` where it is free, else any free port."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((_HOST, port))
                chosen: int = probe.getsockname()[1]
                return chosen
    raise Unavailable(f"no free port on {_HOST}")
