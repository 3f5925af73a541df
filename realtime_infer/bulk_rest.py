"""NDJSON into the write door: a push or a deletion per line, an outcome per line. It only translates.

Outcomes are sent while lines still arrive. Few clients read before they have sent everything, so outcomes
nobody reads yet are kept, within bounds; beyond those the upload is not read further.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from contracts.errors import RepcenterError, TooLarge
from contracts.problem import problem, retry_after_s, validation_problem
from doors.shutdown import cancel
from realtime_infer.bulk import BulkOutcome, Bulks, Entry
from realtime_infer.channel import Channel
from realtime_infer.ingest import Ingest
from realtime_infer.item_body import parse_delete, parse_item
from realtime_infer.metrics import Operation
from realtime_infer.ndjson import NDJSON, Lines
from realtime_infer.push_status import Receipt

_MOST_UNREAD_BYTES = 8 << 20
_ITEMS = "/v1/items"


class BulkResponse(Response):
    """Takes the request's lines while it answers. place: among the uploads; closed at the end."""

    def __init__(
        self,
        request: Request,
        ingest: Ingest,
        bulks: Bulks,
        place: ExitStack,
        max_line_bytes: int,
        part_s: float,
    ) -> None:
        """part_s: the longest silence of the sender."""
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]
        self._request = request
        self._ingest = ingest
        self._bulks = bulks
        self._place = place
        self._max_line_bytes = max_line_bytes
        self._part_s = part_s
        self._key = request.headers.get("idempotency-key")
        self._unread = Channel[bytes](1_000_000, _MOST_UNREAD_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            working = asyncio.create_task(self._work())
            try:
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
                while parts := await self._unread.take():
                    await send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
                await working
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await cancel(working)

    async def _work(self) -> None:
        """Outcomes as lines, then the sums; what ended the upload early is said with them."""
        sums: dict[str, Any] = {"accepted": 0, "refused": 0}
        try:
            async for outcomes in self._bulks.outcomes(self._entries(), "http"):
                accepted = sum(isinstance(outcome.result, Receipt) for outcome in outcomes)
                sums["accepted"] += accepted
                sums["refused"] += len(outcomes) - accepted
                await self._put(*map(_outcome, outcomes))
        except (TooLarge, HTTPException) as error:
            await self._put({**sums, "problem": _problem(error)})
        except ClientDisconnect:
            pass  # nobody reads what became of the last ones
        else:
            await self._put(sums)
        finally:
            self._unread.close()

    async def _put(self, *lines: dict[str, Any]) -> None:
        text = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
        await self._unread.put(text, len(text))

    async def _entries(self) -> AsyncIterator[Entry]:
        lines, number = Lines(self._max_line_bytes), 0
        parts = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(self._part_s):
                    part = await anext(parts, None)
            except TimeoutError as error:
                raise HTTPException(408, f"nothing came for {self._part_s:g} s") from error
            for line in lines.end() if part is None else lines.feed(part):
                yield self._entry(line, number)
                number += 1
            if part is None:
                return

    def _entry(self, line: bytes | TooLarge, number: int) -> Entry:
        if isinstance(line, TooLarge):
            return Entry(None, "push", line)
        key = None if self._key is None else f"{self._key}/{number}"
        item_id: str | None = None
        operation: Operation = "push"
        try:
            deletion = parse_delete(line)
            if deletion is not None:
                item_id, operation = deletion.item_id, "delete"
                write = self._ingest.write_delete(item_id, deletion.idempotency_key or key)
            else:
                body = parse_item(line)
                item_id = body.item_id
                write = self._ingest.write(body.item(), body.idempotency_key or key)
        except (RepcenterError, RequestValidationError) as error:
            return Entry(item_id, operation, error)
        return Entry(item_id, operation, write)


def _outcome(outcome: BulkOutcome) -> dict[str, Any]:
    named = {"line": outcome.index, "item_id": outcome.item_id}
    if isinstance(outcome.result, Receipt):
        replayed = {"replayed": True} if outcome.result.replayed else {}
        return {**named, "sequence": outcome.result.sequence, **replayed}
    return {**named, "problem": _problem(outcome.result)}


def _problem(error: Exception) -> dict[str, Any]:
    if isinstance(error, RequestValidationError):
        return validation_problem(error.errors(), _ITEMS)
    if isinstance(error, HTTPException):
        return {
            "type": "about:blank",
            "title": "Refused",
            "status": error.status_code,
            "detail": error.detail,
        }
    assert isinstance(error, RepcenterError)
    wait_s = retry_after_s(error)
    return problem(error, _ITEMS) | ({} if wait_s is None else {"retry_after_s": wait_s})
