"""What stands before the HTTP door while requests wait too long: 429 for a tenth of what a request costs.

Nothing is routed or parsed. A body that names its priority is handed on: its turn may come sooner.
"""

from __future__ import annotations

import math
import time

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import Overloaded
from contracts.problem import MEDIA_TYPE, problem
from serving.admission import Admission
from serving.metrics import Metrics

PATHS = frozenset(("/v1/score", "/v1/score/many"))
PRIORITY = b'"priority"'


class EarlyRefusal:
    """An ASGI app before another. max_body_bytes: of a body that is looked at."""

    def __init__(self, app: ASGIApp, admission: Admission, metrics: Metrics, max_body_bytes: int) -> None:
        self._app, self._admission, self._metrics = app, admission, metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in PATHS and scope["method"] == "POST":
            try:
                self._admission.check()
            except Overloaded as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, error: Overloaded, scope: Scope, receive: Receive, send: Send) -> None:
        began, size = time.perf_counter(), 0
        read: list[Message] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            read.append(message)
            size += len(message.get("body", b""))
            if size > self._max_body_bytes or not message.get("more_body"):
                break
        body = b"".join(message.get("body", b"") for message in read)
        if PRIORITY in body and size <= self._max_body_bytes:
            await self._app(scope, _again(read, receive), send)
            return
        content = orjson.dumps(problem(error, scope["path"]))
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(content)),
            (b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s or 0))),
        ]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        if scope["path"] == "/v1/score":
            self._metrics.request("http", error.code, time.perf_counter() - began)


def _again(read: list[Message], receive: Receive) -> Receive:
    """What was read, then what comes."""
    waiting = iter(read)

    async def next_message() -> Message:
        return next(waiting, None) or await receive()

    return next_message
