"""The gRPC door of an encoder: repcenter.v1.Encoder. It only translates."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import grpc.aio

from contracts.errors import RepcenterError
from contracts.rpc.items import item_of
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from doors.grpc_errors import Context, GrpcErrors
from doors.grpc_server import GrpcServer
from doors.protection import Protection
from realtime_infer.encode_metrics import EncodeMetrics
from realtime_infer.encode_queue import EncodeQueue, ItemVectors
from realtime_infer.rpc import refusal
from realtime_infer.settings import EncoderSettings

SERVICE = "repcenter.v1.Encoder"
ENCODER_GRPC_PORT = 50053
_OTHER_CALLS = 64
_ERRORS = GrpcErrors(SERVICE, "encoder")


class EncoderService(pb_grpc.EncoderServicer):
    """The Encoder service over one EncodeQueue."""

    def __init__(self, queue: EncodeQueue, metrics: EncodeMetrics) -> None:
        self._queue = queue
        self._metrics = metrics

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        try:
            with self._metrics.call("grpc"):
                items = [
                    dataclasses.replace(item_of(message), item_id=f"items[{i}]")
                    for i, message in enumerate(request.items)
                ]
                vectors = await self._queue.encode(items, context.time_remaining())
                return pb.EncodeResponse(
                    space_id=vectors.encoder.space.id,
                    encoder_digest=vectors.encoder.digest,
                    items=[_message(found, records=request.records) for found in vectors.items()],
                )
        except Exception as error:
            await _ERRORS.abort(context, error, "Encode")


def encoder_server(
    service: EncoderService, settings: EncoderSettings, protection: Protection | None = None
) -> GrpcServer:
    """The door, not yet started."""

    def add(server: grpc.aio.Server) -> None:
        cast(Any, pb_grpc.add_EncoderServicer_to_server)(service, server)

    return GrpcServer(
        SERVICE,
        add,
        settings.host,
        ENCODER_GRPC_PORT if settings.grpc_port is None else settings.grpc_port,
        settings.max_body_bytes,
        max_calls=settings.max_in_flight + _OTHER_CALLS,
        protection=protection,
    )


def _message(found: ItemVectors | RepcenterError, *, records: bool) -> pb.EncodedItem:
    if isinstance(found, RepcenterError):
        return pb.EncodedItem(refusal=refusal(found))
    return pb.EncodedItem(
        vectors={name: pb.Vector(values=vector) for name, vector in found.vectors.items()},
        record=found.record if records else b"",
        flagged=found.flagged,
    )
