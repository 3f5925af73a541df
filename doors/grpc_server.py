"""One gRPC server on one port, with health (Check, Watch) and reflection."""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contracts.errors import InvalidInput
from doors.address import authority
from doors.guard import GrpcGuard
from doors.protection import Protection
from doors.tracing import Tracing

_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_grace_ms", 60_000),
)
_AGE_S = 1_800.0


class GrpcServer:
    """Not serving until told so. target: host:port, with the port that was taken."""

    def __init__(
        self,
        service: str,
        add: Callable[[grpc.aio.Server], object],
        host: str,
        port: int,
        max_body_bytes: int,
        *,
        max_calls: int | None = None,
        others: tuple[str, ...] = (),
        protection: Protection | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """service: its full name; add: puts its implementation on a server; port 0 takes a free one;
        max_calls: calls of all kinds at a time, health watches too; more are RESOURCE_EXHAUSTED;
        others: full names of services that `add` puts there too; protection: None = open to all and plain;
        tracing: None = no spans.

        InvalidInput names the port where it cannot be had.
        """
        self._services = (service, *others)
        keys = protection.keys if protection is not None else None
        age_s = protection.max_connection_age_s if protection is not None else _AGE_S
        self._server = grpc.aio.server(
            interceptors=[
                *([] if tracing is None else [tracing.grpc()]),
                *([GrpcGuard(keys, protection.role)] if protection and keys else []),
            ],
            options=(
                *_OPTIONS,
                ("grpc.max_receive_message_length", max_body_bytes),
                ("grpc.max_connection_age_ms", round(age_s * 1e3)),
            ),
            maximum_concurrent_rpcs=max_calls,
        )
        self._health = health.aio.HealthServicer()
        add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        try:
            if protection is not None and protection.tls is not None:
                taken = self._server.add_secure_port(authority(host, port), protection.tls.grpc_credentials())
            else:
                taken = self._server.add_insecure_port(authority(host, port))
        except RuntimeError as error:
            raise InvalidInput("grpc_port", port, f"cannot listen on {host}: {error}") from error
        self.target = authority(host, taken)

    async def start(self) -> None:
        await self.tell(False)
        await self._server.start()

    async def tell(self, ready: bool) -> None:
        """What the health service says to Check and Watch."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", *self._services):
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those in flight end for at most grace_s."""
        await self._server.stop(grace_s)
