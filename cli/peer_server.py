"""LitServe and BentoML with the ranker: an environment and processes of their own, on the server's core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import loadtests
from cli.process_tree import ProcessTree
from cli.served import on_core
from contracts.errors import Unavailable
from contracts.onnx_model import check_runtime
from loadtests.peers.given import Given
from loadtests.wire import OK, HttpWire
from param_server.peer_environment import peer_python

Peer = Literal["litserve", "bentoml"]
PEERS: tuple[Peer, ...] = ("litserve", "bentoml")
_PINNED = {"litserve": "litserve==0.2.19", "bentoml": "bentoml==1.4.40"}
_OURS_TOO = ("numpy", "redis", "hiredis", "orjson", "uvloop", "httptools")
_TOLD = (*_OURS_TOO, "uvicorn", "starlette", "pydantic")
_START_S = 90.0
_KILLED_S = 15.0


@dataclass(frozen=True)
class PeerServer:
    """A running peer. url: of its score route."""

    url: str
    tree: ProcessTree


def peer_environment(peer: Peer, directory: Path) -> Path:
    """The peer's interpreter, with what our scorer has beside it in our versions: as fast as they can be.

    Raises one of `param_server.peer_environment.FAILURES`.
    """
    beside = [f"{name}=={version(name)}" for name in (check_runtime(), *_OURS_TOO)]
    return peer_python(directory, [_PINNED[peer], *beside])


def peer_versions(peer: Peer, python: Path) -> dict[str, str]:
    """What is installed there, as far as it matters."""
    names = json.dumps([peer, check_runtime(), *_TOLD])
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    said = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(said)
    return found


@contextlib.contextmanager
def peer_server(
    peer: Peer, python: Path, given: Given, payload: bytes, scratch: Path, core: int | None
) -> Iterator[PeerServer]:
    """It serves once it has answered `payload`. scratch: an empty directory. Raises Unavailable."""
    scratch.mkdir(parents=True)
    given.write(scratch / "given.json")
    # Of ours, only this package is on its path.
    (scratch / "code").mkdir()
    (scratch / "code" / "loadtests").symlink_to(Path(loadtests.__file__).resolve().parent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    errors = scratch / "log"
    with on_core(core), errors.open("wb") as log:
        process = subprocess.Popen(
            _command(peer, python, port, given.tuned),
            env=_environment(scratch),
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    tree = ProcessTree(process.pid)
    try:
        server = PeerServer(f"http://127.0.0.1:{port}/v1/score", tree)
        _wait(peer, process, server.url, payload, errors)
        yield server
    finally:
        tree.kill()
        with contextlib.suppress(ProcessLookupError):  # what outlived a supervisor that died by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_KILLED_S)


def _command(peer: Peer, python: Path, port: int, tuned: bool) -> list[str]:
    if peer == "litserve":
        return [str(python), "-m", "loadtests.peers.litserve_app", "given.json", str(port)]
    service = f"loadtests.peers.bentoml_app:{'TunedRankerService' if tuned else 'RankerService'}"
    serve = [str(python), "-m", "bentoml", "serve", service, "--arg", "given=given.json"]
    return [*serve, "--host", "127.0.0.1", "--port", str(port)]


def _environment(scratch: Path) -> dict[str, str]:
    """No other Python's packages, one thread for libraries that would take more, nothing told to anybody."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BENTOML"))}
    return kept | {
        "PYTHONPATH": str(scratch.resolve() / "code"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(scratch.resolve() / "bentoml"),
    }


def _wait(peer: Peer, process: subprocess.Popen[bytes], url: str, payload: bytes, errors: Path) -> None:
    deadline = time.monotonic() + _START_S
    while asyncio.run(_outcome(url, payload)) != OK:
        if process.poll() is not None or time.monotonic() > deadline:
            said = errors.read_text(errors="replace")[-500:].strip()
            raise Unavailable(f"{peer} did not start: {said}")
        time.sleep(0.1)


async def _outcome(url: str, payload: bytes) -> str:
    wire = HttpWire(url)
    try:
        return (await asyncio.wait_for(wire.call(payload), _START_S)).outcome
    except TimeoutError:
        return "no answer"
    finally:
        await wire.close()
