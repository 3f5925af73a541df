"""A request body, refused by its size before it is parsed."""

from __future__ import annotations

from fastapi import Request

from contracts.errors import TooLarge


async def read_body(request: Request, limit: int) -> bytes:
    """The body, or TooLarge: by its declared length before a byte is read, by count where none is given."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge("body", int(declared), limit, "bytes")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge("body", size, limit, "bytes")
        chunks.append(chunk)
    return b"".join(chunks)
