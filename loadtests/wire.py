"""Both doors as a load driver sees them: bytes that were encoded before, answers that are read afterwards.

A driver that encodes and decodes while it measures is slower than the server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from contracts.errors import Unavailable
from contracts.request import ScoreRequest
from contracts.rpc.v1 import repcenter_pb2 as pb
from serving.client import read_score_message, read_scores, score_body, score_message

Door = Literal["http", "grpc"]
OK = "ok"
_HTTP_NAMES = {200: OK, 429: "overloaded", 503: "unavailable", 504: "deadline"}
_GRPC_NAMES = {
    "RESOURCE_EXHAUSTED": "overloaded",
    "UNAVAILABLE": "unavailable",
    "DEADLINE_EXCEEDED": "deadline",
}


@dataclass(frozen=True)
class Answer:
    """outcome: "ok", or what went wrong in a word; body: of an answer that is ok."""

    outcome: str
    body: bytes = b""


class Wire(Protocol):
    """One door. Any number of calls at a time."""

    async def call(self, payload: bytes) -> Answer: ...

    async def close(self) -> None: ...


class HttpWire:
    """POSTs to one URL over as many connections as there are calls at a time, each kept open."""

    def __init__(self, url: str) -> None:
        """url: with its path, http only."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        ).encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, payload: bytes) -> Answer:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await self._connection()
            writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(payload), payload))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.index(b"content-length:") + 15
            body = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            if writer is not None:
                writer.close()
            return Answer(type(error).__name__)
        self._idle.append((reader, writer))
        status = int(head[9:12])
        return Answer(_HTTP_NAMES.get(status, str(status)), body)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server has closed it meanwhile
        return await asyncio.open_connection(self._host, self._port)

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


class GrpcWire:
    """Calls over one connection."""

    def __init__(self, target: str, deadline_s: float) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._score: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            "/repcenter.v1.Scorer/Score"
        )
        self._deadline_s = deadline_s

    async def call(self, payload: bytes) -> Answer:
        try:
            return Answer(OK, await self._score(payload, timeout=self._deadline_s))
        except grpc.aio.AioRpcError as error:
            name = error.code().name
            return Answer(_GRPC_NAMES.get(name, name.lower()))

    async def close(self) -> None:
        await self._channel.close()


def wire_to(door: Door, where: str, deadline_s: float) -> Wire:
    """where: the scorer's base URL or gRPC target."""
    return HttpWire(f"{where}/v1/score") if door == "http" else GrpcWire(where, deadline_s)


def payload_of(door: Door, request: ScoreRequest, deadline_s: float) -> bytes:
    """The request as the door reads it."""
    if door == "http":
        return score_body(request, deadline_s=deadline_s)
    return score_message(request).SerializeToString()


def scores_of(door: Door, answer: Answer) -> npt.NDArray[np.float32]:
    """(N,) scores; Unavailable where the answer is not ok."""
    if answer.outcome != OK:
        raise Unavailable(f"the scorer answered {answer.outcome}")
    if door == "http":
        return read_scores(answer.body).scores
    return read_score_message(pb.ScoreResponse.FromString(answer.body)).scores
