"""A request body, refused by its size before it is parsed, and unpacked where it comes packed."""

from __future__ import annotations

import zlib

from fastapi import Request

from contracts.errors import InvalidInput, TooLarge

_ENCODING = "content-encoding"
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


async def read_body(request: Request, limit: int) -> bytes:
    """The body, unpacked from gzip or deflate.

    TooLarge: by its declared length before a byte is read, by count where none is given or where it grows
    while it is unpacked. InvalidInput: an encoding that is not read, a body that cannot be unpacked.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge("body", int(declared), limit, "bytes")
    encoding = request.headers.get(_ENCODING, "identity").strip().lower()
    if encoding not in ("identity", *_WINDOW_BITS):
        raise InvalidInput(_ENCODING, encoding, f"must be one of {['identity', *_WINDOW_BITS]}")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge("body", size, limit, "bytes")
        chunks.append(chunk)
    body = b"".join(chunks)
    return body if encoding == "identity" else _unpacked(body, encoding, limit)


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """At most limit bytes are ever made of it."""
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        out = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(_ENCODING, encoding, f"the body is not: {error}") from error
    if len(out) > limit:
        raise TooLarge("body", len(out), limit, "bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidInput(_ENCODING, encoding, "the body does not end where it says")
    return out
