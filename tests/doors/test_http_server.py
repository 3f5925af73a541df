"""A port taken and given back, answers at once, requests in flight finished."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from fastapi import FastAPI

from contracts.errors import InvalidInput
from doors.http_server import http_server, listen
from tests.doors.doors import http_app, http_door


async def test_leaving_finishes_what_is_in_flight_and_frees_the_port() -> None:
    app = FastAPI()
    entered, gate = asyncio.Event(), asyncio.Event()

    @app.get("/slow")
    async def slow() -> str:
        entered.set()
        await gate.wait()
        return "done"

    async with httpx.AsyncClient() as client:
        async with http_server(app, "127.0.0.1", 0, stop_s=5.0) as url:
            asked = asyncio.create_task(client.get(f"{url}/slow"))
            await entered.wait()
            asyncio.get_running_loop().call_later(0.1, gate.set)
        assert (await asked).json() == "done"
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/slow")
    listen("127.0.0.1", int(url.rpartition(":")[2])).close()


async def test_a_taken_port_is_named() -> None:
    async with http_door(http_app()) as http:
        port = http.base_url.port
        assert port is not None
        with pytest.raises(InvalidInput, match=rf"http_port: cannot listen on 127\.0\.0\.1.*{port}"):
            async with http_server(http_app(), "127.0.0.1", port, stop_s=1.0):
                pass
        assert (await http.post("/echo", content=b"ab")).json() == 2


def test_the_listener_names_its_protocol() -> None:
    """asyncio sets TCP_NODELAY on accepted connections only then."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


async def test_accepted_connections_do_not_delay() -> None:
    """The option itself, on the connection that asyncio accepts from such a listener."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.set_result(option)
        writer.close()

    async with await asyncio.start_server(connected, sock=listen("127.0.0.1", 0)) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await accepted != 0
        writer.close()
        await writer.wait_closed()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_ipv6_addresses_are_bracketed() -> None:
    async with http_door(http_app(), "::1") as http:
        assert str(http.base_url).startswith("http://[::1]:")
        assert (await http.post("/echo", content=b"abc")).json() == 3
