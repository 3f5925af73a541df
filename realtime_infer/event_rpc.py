"""The gRPC write door of behaviour events: repcenter.v1.Events. It only translates."""

from __future__ import annotations

from dataclasses import asdict

from contracts.errors import TooLarge
from contracts.events import MAX_EVENTS, Event
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from doors.grpc_errors import Context, GrpcErrors
from realtime_infer.event_metrics import EventMetrics
from realtime_infer.events import Events

EVENTS_SERVICE = "repcenter.v1.Events"
_ERRORS = GrpcErrors(EVENTS_SERVICE, "write door")


class EventsService(pb_grpc.EventsServicer):
    """The Events service over one Events."""

    def __init__(self, events: Events, metrics: EventMetrics) -> None:
        self._events = events
        self._metrics = metrics

    async def Append(self, request: pb.AppendEventsRequest, context: Context) -> pb.AppendEventsReceipt:
        try:
            with self._metrics.call("append", "grpc"), self._events.admit():
                if len(request.events) > MAX_EVENTS:
                    raise TooLarge("events", len(request.events), MAX_EVENTS, "events")
                found = await self._events.append([event(message) for message in request.events])
                self._metrics.appended(found)
                return pb.AppendEventsReceipt(**asdict(found))
        except Exception as error:
            await _ERRORS.abort(context, error, "Append")

    async def Forget(self, request: pb.ForgetUserRequest, context: Context) -> pb.ForgetUserReceipt:
        try:
            with self._metrics.call("forget", "grpc"):
                return pb.ForgetUserReceipt(**asdict(await self._events.forget(request.user_id)))
        except Exception as error:
            await _ERRORS.abort(context, error, "Forget")


def event(message: pb.Event) -> Event:
    """The message as an Event."""
    return Event(
        message.user_id,
        message.item_id,
        message.timestamp_ms if message.HasField("timestamp_ms") else None,
        message.event_id if message.HasField("event_id") else None,
        message.kind if message.HasField("kind") else None,
    )
