"""One ASGI app on one port, for as long as a context lasts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import uvicorn
from starlette.types import ASGIApp

from contracts.errors import InvalidInput, Unavailable
from doors.address import authority
from doors.guard import HttpGuard
from doors.protection import Protection
from doors.tracing import Tracing


@contextlib.asynccontextmanager
async def http_server(
    app: ASGIApp,
    host: str,
    port: int,
    stop_s: float,
    protection: Protection | None = None,
    tracing: Tracing | None = None,
) -> AsyncIterator[str]:
    """Serve -> the URL; port 0 takes a free one. On leaving, requests in flight have stop_s to end.

    protection: None = open to all and plain; tracing: None = no spans.

    InvalidInput names the port where it cannot be had. uvicorn puts handlers of its own on SIGTERM and
    SIGINT: a process that wants them puts its own there again (`doors.shutdown.on_signals`).
    """
    listener = listen(host, port)
    keys, tls = (protection.keys, protection.tls) if protection else (None, None)
    guarded: ASGIApp = HttpGuard(app, keys, protection.role) if protection and keys else app
    server = uvicorn.Server(
        uvicorn.Config(
            guarded if tracing is None else tracing.http(guarded),
            ssl_certfile=tls.cert if tls else None,
            ssl_keyfile=tls.key if tls else None,
            ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca else ssl.CERT_NONE,
            lifespan="off",
            log_config=None,  # its log goes where ours does
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=max(1, round(stop_s)),
        )
    )
    task = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started:
            if task.done():
                raise Unavailable("the HTTP door did not open")
            await asyncio.sleep(0.005)
        yield f"{'https' if tls else 'http'}://{authority(host, listener.getsockname()[1])}"
    finally:
        server.should_exit = True
        await task


def listen(host: str, port: int) -> socket.socket:
    """A bound TCP socket; InvalidInput where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer waits 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidInput("http_port", port, f"cannot listen on {host}: {error}") from error
    return listener
