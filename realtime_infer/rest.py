"""The HTTP write door. It only translates: bytes -> Ingest or Statuses -> bytes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated
from urllib.parse import quote, unquote_to_bytes

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException

from contracts.errors import InvalidInput, RepcenterError
from doors.body import read_body
from doors.health import add_health
from doors.problems import install_problems, problem_responses
from realtime_infer.bulk import Bulks
from realtime_infer.bulk_rest import BulkResponse
from realtime_infer.event_metrics import EventMetrics
from realtime_infer.event_rest import add_events
from realtime_infer.events import Events
from realtime_infer.ingest import Ingest
from realtime_infer.item_body import ReceiptBody, StatusBody, parse_item
from realtime_infer.metrics import DoorMetrics
from realtime_infer.multipart import MULTIPART, read_item
from realtime_infer.ndjson import NDJSON
from realtime_infer.push_schema import BULK_ANSWER, KEY_HEADER, push_schema
from realtime_infer.push_status import PushStatus, Receipt
from realtime_infer.statuses import MAX_WAIT_MS, Statuses

_JSON = "application/json"
_WRITE_ERRORS = ("invalid", "too_large", "conflict", "overloaded", "unavailable")
_ITEMS = "/v1/items"
_BODY_S = 60.0  # a body holds a place among the pushes in flight while it comes


class AnyText(Convertor[str]):
    """The rest of a path, line breaks included, which Starlette's own `path` does not match."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def create_app(
    ingest: Ingest,
    statuses: Statuses,
    bulks: Bulks,
    metrics: DoorMetrics,
    max_body_bytes: int,
    *,
    body_s: float = _BODY_S,
    events: tuple[Events, EventMetrics] | None = None,
) -> FastAPI:
    """The door's ASGI app. body_s: the longest that the body of a push may take to arrive (then 408).
    events: also take behaviour events, counted in these metrics."""
    register_url_convertor("any", AnyText())
    app = FastAPI(
        title="Repcenter write door",
        version="1",
        description="Items and events in. A pushed item is scoreable as soon as its status says so; 202 "
        "means on disk, and so does the 200 of events.",
        separate_input_output_schemas=False,
        redirect_slashes=False,
    )
    install_problems(app, "write door")

    @app.post(
        _ITEMS,
        status_code=202,
        tags=["items"],
        summary="Push a new or changed item",
        response_model=ReceiptBody,
        responses={**problem_responses(*_WRITE_ERRORS), 200: BULK_ANSWER},
        openapi_extra={"parameters": [KEY_HEADER], "requestBody": push_schema()},
    )
    async def push(request: Request, response: Response) -> ReceiptBody | Response:
        """The receipt is given once the push is on disk. Of several pushes of one item the newest wins.

        One item as JSON, or as multipart/form-data with its picture as a file; or many as NDJSON, a push or
        a deletion per line: then the answer is 200 with an outcome per line, in order, while lines still
        arrive, and a last line with the sums. A line that is refused stops no other."""
        kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
        if kind == NDJSON:
            with contextlib.ExitStack() as place:
                place.enter_context(bulks.admit())
                return BulkResponse(request, ingest, bulks, place.pop_all(), max_body_bytes, body_s)
        with metrics.accept("push", "http", (RequestValidationError, HTTPException)):
            if kind not in (_JSON, MULTIPART):
                kinds = f"{_JSON}, {NDJSON} or {MULTIPART}"
                raise HTTPException(415, f"content type {kind[:64]!r} is not {kinds}")
            with ingest.admit():
                try:
                    async with asyncio.timeout(body_s):
                        if kind == MULTIPART:
                            body, image = await read_item(request, max_body_bytes)
                        else:
                            body, image = parse_item(await read_body(request, max_body_bytes)), None
                except TimeoutError as error:
                    raise HTTPException(408, f"the body took longer than {body_s:g} s") from error
                key = _key(request, body.idempotency_key)
                receipt = await ingest.push(body.item(image), key, admitted=True)
            metrics.replayed.inc(receipt.replayed)
            return _receipt(receipt, response)

    @app.get(
        f"{_ITEMS}/{{item_id:any}}",
        tags=["items"],
        summary="Where an item is on its way to the table",
        response_model=StatusBody,
        responses=problem_responses("invalid", "not_found", "overloaded", "unavailable"),
    )
    async def status(
        request: Request,
        item_id: str,
        wait_ms: Annotated[
            int, Query(ge=0, le=MAX_WAIT_MS, description="Wait up to this long for a final state.")
        ] = 0,
    ) -> StatusBody:
        _check_path(request)
        return _status(await statuses.get(item_id, wait_ms))

    @app.delete(
        f"{_ITEMS}/{{item_id:any}}",
        status_code=202,
        tags=["items"],
        summary="Delete an item",
        response_model=ReceiptBody,
        responses=problem_responses(*_WRITE_ERRORS),
        openapi_extra={"parameters": [KEY_HEADER]},
    )
    async def delete(request: Request, item_id: str, response: Response) -> ReceiptBody:
        """The receipt is given once the deletion is on disk. Deleting an unknown item is no error."""
        with metrics.accept("delete", "http"):
            _check_path(request)
            receipt = await ingest.delete(item_id, _key(request, None))
            metrics.replayed.inc(receipt.replayed)
            return _receipt(receipt, response)

    if events is not None:
        add_events(app, *events, max_body_bytes, body_s)

    async def expose() -> bytes:
        try:
            return metrics.expose(await ingest.backlog())
        except RepcenterError:
            return metrics.expose(None)

    add_health(app, ingest.check, expose)
    return app


def item_url(item_id: str) -> str:
    """The path of an item's status; "." and ".." are escaped too, since clients would drop them."""
    escaped = quote(item_id, safe="")
    return f"{_ITEMS}/{escaped.replace('.', '%2E') if item_id in ('.', '..') else escaped}"


def _receipt(receipt: Receipt, response: Response) -> ReceiptBody:
    url = item_url(receipt.item_id)
    response.headers["Location"] = url
    return ReceiptBody(
        item_id=receipt.item_id, sequence=receipt.sequence, status_url=url, replayed=receipt.replayed
    )


def _status(status: PushStatus) -> StatusBody:
    return StatusBody(
        item_id=status.item_id,
        state=status.state.value,
        sequence=status.sequence,
        reason=status.reason or None,
        updated_ms=status.updated_ms or None,
    )


def _key(request: Request, named: str | None) -> str | None:
    """The idempotency key: of the body, else of the header; the same where both are given."""
    header = request.headers.get("idempotency-key")
    if header is not None and named is not None and header != named:
        raise InvalidInput("idempotency_key", named, "differs from the header Idempotency-Key")
    return header if named is None else named


def _check_path(request: Request) -> None:
    """Refuse a path whose escapes are not UTF-8: its replacement characters would name another item."""
    raw = request.scope.get("raw_path", b"")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("item_id", raw.decode("latin-1"), "is not UTF-8") from error
