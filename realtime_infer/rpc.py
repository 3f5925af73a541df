"""The gRPC write door: repcenter.v1.Items, and the server that it shares with Events. It only translates."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc.aio

from contracts.errors import InvalidInput, RepcenterError
from contracts.items import Item
from contracts.problem import retry_after_s
from contracts.rpc.items import item_of
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from doors.grpc_errors import Context, GrpcErrors
from doors.grpc_server import GrpcServer
from doors.protection import Protection
from realtime_infer.bulk import BulkOutcome, Bulks, Entry
from realtime_infer.event_rpc import EVENTS_SERVICE, EventsService
from realtime_infer.ingest import Ingest
from realtime_infer.metrics import DoorMetrics
from realtime_infer.push_status import PushState, PushStatus, Receipt
from realtime_infer.settings import EncoderSettings
from realtime_infer.statuses import Statuses

SERVICE = "repcenter.v1.Items"
DOOR_GRPC_PORT = 50052
_OTHER_CALLS = 64  # status, health and reflection beside the pushes in flight
_ERRORS = GrpcErrors(SERVICE, "write door")
_STATES = {
    PushState.QUEUED: pb.ITEM_STATE_QUEUED,
    PushState.ENCODING: pb.ITEM_STATE_ENCODING,
    PushState.SCOREABLE: pb.ITEM_STATE_SCOREABLE,
    PushState.DELETED: pb.ITEM_STATE_DELETED,
    PushState.DEAD: pb.ITEM_STATE_DEAD,
}


class ItemsService(pb_grpc.ItemsServicer):
    """The Items service over one Ingest."""

    def __init__(self, ingest: Ingest, bulks: Bulks, statuses: Statuses, metrics: DoorMetrics) -> None:
        self._ingest = ingest
        self._bulks = bulks
        self._statuses = statuses
        self._metrics = metrics

    async def Push(self, request: pb.PushRequest, context: Context) -> pb.PushReceipt:
        try:
            with self._metrics.accept("push", "grpc"):
                receipt = await self._ingest.push(item(request), _key(request))
            self._metrics.replayed.inc(receipt.replayed)
            return _receipt(receipt)
        except Exception as error:
            await _ERRORS.abort(context, error, "Push")

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.PushReceipt:
        try:
            with self._metrics.accept("delete", "grpc"):
                receipt = await self._ingest.delete(request.item_id, _key(request))
            self._metrics.replayed.inc(receipt.replayed)
            return _receipt(receipt)
        except Exception as error:
            await _ERRORS.abort(context, error, "Delete")

    async def PushMany(
        self, requests: AsyncIterator[pb.PushManyRequest], context: Context
    ) -> AsyncIterator[pb.PushOutcome]:
        try:
            with self._bulks.admit():
                async for outcomes in self._bulks.outcomes(self._entries(requests), "grpc"):
                    for outcome in outcomes:
                        yield _outcome(outcome)
        except Exception as error:
            await _ERRORS.abort(context, error, "PushMany")

    async def _entries(self, requests: AsyncIterator[pb.PushManyRequest]) -> AsyncIterator[Entry]:
        async for request in requests:
            deletes = request.WhichOneof("operation") == "delete"
            item_id = request.delete.item_id if deletes else request.push.item.item_id
            try:
                if deletes:
                    write = self._ingest.write_delete(item_id, _key(request.delete))
                else:
                    write = self._ingest.write(item(request.push), _key(request.push))
            except RepcenterError as error:
                yield Entry(item_id, "delete" if deletes else "push", error)
            else:
                yield Entry(item_id, "delete" if deletes else "push", write)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.ItemStatus:
        try:
            return item_status(await self._statuses.get(request.item_id))
        except Exception as error:
            await _ERRORS.abort(context, error, "GetStatus")


def items_server(
    service: ItemsService,
    events: EventsService,
    settings: EncoderSettings,
    protection: Protection | None = None,
) -> GrpcServer:
    """The door of both services, not yet started.

    Calls beyond max_in_flight and some are refused before they are read.
    """

    def add(server: grpc.aio.Server) -> None:
        cast(Any, pb_grpc.add_ItemsServicer_to_server)(service, server)
        cast(Any, pb_grpc.add_EventsServicer_to_server)(events, server)

    return GrpcServer(
        SERVICE,
        add,
        settings.host,
        DOOR_GRPC_PORT if settings.grpc_port is None else settings.grpc_port,
        settings.max_body_bytes,
        max_calls=settings.max_in_flight + _OTHER_CALLS,
        others=(EVENTS_SERVICE,),
        protection=protection,
    )


def item(request: pb.PushRequest) -> Item:
    """The message's item; InvalidInput where it has none or an attribute without a value."""
    if not request.HasField("item"):
        raise InvalidInput("item", None, "must be given")
    return item_of(request.item)


def item_status(status: PushStatus) -> pb.ItemStatus:
    """The status as a message."""
    return pb.ItemStatus(
        item_id=status.item_id,
        state=_STATES[status.state],
        sequence=status.sequence,
        reason=status.reason,
        updated_ms=status.updated_ms,
    )


def _receipt(receipt: Receipt) -> pb.PushReceipt:
    return pb.PushReceipt(item_id=receipt.item_id, sequence=receipt.sequence, replayed=receipt.replayed)


def _key(request: pb.PushRequest | pb.DeleteRequest) -> str | None:
    return request.idempotency_key if request.HasField("idempotency_key") else None


def _outcome(outcome: BulkOutcome) -> pb.PushOutcome:
    result = outcome.result
    if isinstance(result, Receipt):
        return pb.PushOutcome(index=outcome.index, item_id=outcome.item_id, receipt=_receipt(result))
    return pb.PushOutcome(index=outcome.index, item_id=outcome.item_id, refusal=refusal(result))


def refusal(error: Exception) -> pb.Refusal:
    """Why one of many was refused."""
    assert isinstance(error, RepcenterError)
    wait_s = retry_after_s(error)
    wait_ms = None if wait_s is None else math.ceil(wait_s * 1e3)
    return pb.Refusal(code=error.code, detail=str(error), retry_after_ms=wait_ms)
