"""The images' HEALTHCHECK against a real HTTP server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "health.py"


class Answers(BaseHTTPRequestHandler):
    """200 for /health/ready while `ready`, else 503."""

    ready = True

    def do_GET(self) -> None:
        right = self.path == "/health/ready"
        self.send_response(200 if right and self.ready else 503)
        self.end_headers()
        self.wfile.write(b'{"detail":"no generation yet"}')

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class Busy(Answers):
    ready = False


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def run(port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "REPCENTER_HTTP_PORT": str(port), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("port", [Answers], indirect=True)
def test_ready_is_healthy_even_behind_a_proxy(port: int) -> None:
    assert run(port).returncode == 0
    assert run(port, http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1").returncode == 0


@pytest.mark.parametrize("port", [Busy], indirect=True)
def test_not_ready_is_unhealthy_and_says_why(port: int) -> None:
    done = run(port)
    assert done.returncode == 1
    assert "503" in done.stderr
    assert "no generation yet" in done.stderr


def test_nobody_there_is_unhealthy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run(port)
    assert done.returncode == 1
    assert "refused" in done.stderr
