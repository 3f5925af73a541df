"""A body is refused by its size before it is parsed, and before it is read where it says its size."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator

import httpx

from tests.doors.doors import LIMIT, http_app, http_door


async def test_up_to_the_limit_and_not_a_byte_more() -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x"

    async with http_door(http_app()) as http:
        assert (await http.post("/echo", content=b"")).json() == 0
        assert (await http.post("/echo", content=b"x" * LIMIT)).json() == LIMIT
        assert (await http.post("/echo", content=chunks(LIMIT))).json() == LIMIT
        declared = await http.post("/echo", content=b"x" * (2 * LIMIT))
        counted = await http.post("/echo", content=chunks(LIMIT + 1))
    for answer, size in ((declared, 2 * LIMIT), (counted, LIMIT + 1)):
        assert answer.status_code == 413
        assert answer.json()["errors"] == [{"field": "body", "value": size, "reason": f"limit {LIMIT}"}]


async def test_a_declared_size_is_refused_before_a_byte_is_sent() -> None:
    async with http_door(http_app()) as http:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
        with contextlib.closing(writer):
            writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (LIMIT + 1))
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_packed_bodies_are_unpacked_within_the_limit() -> None:
    async with http_door(http_app()) as http:

        async def send(body: bytes, encoding: str) -> httpx.Response:
            return await http.post("/echo", content=body, headers={"content-encoding": encoding})

        for pack, encoding in ((gzip.compress, "gzip"), (zlib.compress, "deflate"), (gzip.compress, "GZIP")):
            assert (await send(pack(b"x" * LIMIT), encoding)).json() == LIMIT
            grown = await send(pack(b"x" * (100 * LIMIT)), encoding)
            assert (grown.status_code, grown.json()["errors"][0]["value"]) == (413, LIMIT + 1)
        assert (await send(b"xyz", "identity")).json() == 3
        whole = gzip.compress(b"abc")
        for body, encoding in (
            (b"abc", "gzip"),
            (whole[:-1], "gzip"),
            (whole + b"more", "gzip"),
            (whole, "deflate"),
            (b"", "gzip"),
            (whole, "br"),
        ):
            refused = await send(body, encoding)
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "content-encoding"
