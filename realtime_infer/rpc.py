"""The gRPC write door: repcenter.v1.Items, health with Watch, reflection. It only translates."""

from __future__ import annotations

import logging
import math
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
import orjson
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contracts.errors import InvalidInput, RepcenterError
from contracts.items import AttributeValue, Item
from contracts.problem import GRPC_KEY, grpc_status, problem, retry_after_s
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from realtime_infer.ingest import Ingest
from realtime_infer.metrics import DoorMetrics
from realtime_infer.push_status import PushState, PushStatus, Receipt
from realtime_infer.statuses import Statuses

log = logging.getLogger(__name__)
SERVICE = "repcenter.v1.Items"
_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)
_STATES = {
    PushState.QUEUED: pb.ITEM_STATE_QUEUED,
    PushState.ENCODING: pb.ITEM_STATE_ENCODING,
    PushState.SCOREABLE: pb.ITEM_STATE_SCOREABLE,
    PushState.DELETED: pb.ITEM_STATE_DELETED,
    PushState.DEAD: pb.ITEM_STATE_DEAD,
}

Context = grpc.aio.ServicerContext[Any, Any]


class ItemsService(pb_grpc.ItemsServicer):
    """The Items service over one Ingest."""

    def __init__(self, ingest: Ingest, statuses: Statuses, metrics: DoorMetrics) -> None:
        self._ingest = ingest
        self._statuses = statuses
        self._metrics = metrics

    async def Push(self, request: pb.PushRequest, context: Context) -> pb.PushReceipt:
        try:
            with self._metrics.accept("push", "grpc"):
                return _receipt(await self._ingest.push(item(request)))
        except Exception as error:
            await _refuse(context, error, "Push")

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.PushReceipt:
        try:
            with self._metrics.accept("delete", "grpc"):
                return _receipt(await self._ingest.delete(request.item_id))
        except Exception as error:
            await _refuse(context, error, "Delete")

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.ItemStatus:
        try:
            return item_status(await self._statuses.get(request.item_id))
        except Exception as error:
            await _refuse(context, error, "GetStatus")


def item(request: pb.PushRequest) -> Item:
    """The message's item; InvalidInput where it has none or an attribute without a value."""
    if not request.HasField("item"):
        raise InvalidInput("item", None, "must be given")
    message = request.item
    return Item(
        message.item_id,
        dict(message.text),
        {name: _attribute(name, value) for name, value in message.attributes.items()},
        message.image if message.HasField("image") else None,
    )


def item_status(status: PushStatus) -> pb.ItemStatus:
    """The status as a message."""
    return pb.ItemStatus(
        item_id=status.item_id,
        state=_STATES[status.state],
        sequence=status.sequence,
        reason=status.reason,
        updated_ms=status.updated_ms,
    )


def _attribute(name: str, message: pb.Attribute) -> AttributeValue:
    kind = message.WhichOneof("value")
    if kind == "text":
        return message.text
    if kind == "number":
        return message.number
    if kind == "tokens":
        return list(message.tokens.values)
    raise InvalidInput(f"attributes.{name}", None, "has no value")


def _receipt(receipt: Receipt) -> pb.PushReceipt:
    return pb.PushReceipt(item_id=receipt.item_id, sequence=receipt.sequence)


async def _refuse(context: Context, error: Exception, method: str) -> NoReturn:
    if not isinstance(error, RepcenterError):
        log.error("%s failed", method, exc_info=error)  # the log has the trace, the answer does not
        await context.abort(grpc.StatusCode.INTERNAL, "an error of ours; the write door's log says more")
    metadata: list[tuple[str, str | bytes]] = [
        (GRPC_KEY, orjson.dumps(problem(error, f"/{SERVICE}/{method}")))
    ]
    if (wait_s := retry_after_s(error)) is not None:
        metadata.append(("grpc-retry-pushback-ms", str(math.ceil(wait_s * 1e3))))
    await context.abort(grpc.StatusCode[grpc_status(error)], str(error), tuple(metadata))


class RpcDoor:
    """The gRPC server and its health service. `port`: the one that was taken."""

    def __init__(self, service: ItemsService, host: str, port: int, max_body_bytes: int) -> None:
        self._server = grpc.aio.server(
            options=(*_OPTIONS, ("grpc.max_receive_message_length", max_body_bytes))
        )
        self._health = health.aio.HealthServicer()
        cast(Any, pb_grpc.add_ItemsServicer_to_server)(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._server.add_insecure_port(f"{host}:{port}")

    async def start(self) -> None:
        await self.tell(False)
        await self._server.start()

    async def tell(self, ready: bool) -> None:
        """What the health service says to Check and Watch."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those in flight end for at most grace_s."""
        await self._server.stop(grace_s)
