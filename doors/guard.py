"""API keys before a door: asked for before a byte of a body is read, of HTTP paths and of gRPC methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import RepcenterError, Unauthenticated
from contracts.problem import MEDIA_TYPE, http_status, problem
from doors.api_keys import ApiKeys, Role
from doors.grpc_errors import Context, GrpcErrors

OPEN_PATHS = frozenset(
    ("/health/live", "/health/ready", "/health/startup", "/metrics", "/v2/health/live", "/v2/health/ready")
)
_OPEN_METHODS = frozenset(
    f"/inference.GRPCInferenceService/{method}" for method in ("ServerLive", "ServerReady")
)
_HEALTH = "/grpc.health.v1.Health/"


class HttpGuard:
    """An ASGI app before another."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, role: Role) -> None:
        self._app, self._keys, self._role = app, keys, role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            try:
                self._keys.check(headers, self._role)
            except RepcenterError as error:
                await _refuse(error, scope, send)
                return
        await self._app(scope, receive, send)


async def _refuse(error: RepcenterError, scope: Scope, send: Send) -> None:
    body = orjson.dumps(problem(error, scope["path"]))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    headers.append((b"connection", b"close"))  # what the body would have been is not read
    await send({"type": "http.response.start", "status": http_status(error), "headers": headers})
    await send({"type": "http.response.body", "body": body})


class GrpcGuard(grpc.aio.ServerInterceptor):
    """Health is open, reflection is not."""

    def __init__(self, keys: ApiKeys, role: Role) -> None:
        self._keys, self._role = keys, role

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = str(handler_call_details.method)
        if method.startswith(_HEALTH) or method in _OPEN_METHODS:
            return await continuation(handler_call_details)
        metadata: Any = handler_call_details.invocation_metadata or ()
        headers = {key: value for key, value in metadata if isinstance(value, str)}
        try:
            self._keys.check(headers, self._role)
        except RepcenterError as error:
            return _refusal(await continuation(handler_call_details), error, method)
        return await continuation(handler_call_details)


def _refusal(handler: Any, error: RepcenterError, method: str) -> Any:
    """A handler of the same kind that refuses; messages are not parsed."""
    if handler is None:
        return None
    service, _, name = method.removeprefix("/").rpartition("/")
    errors = GrpcErrors(service, "door")

    async def one(_: Any, context: Context) -> None:
        await errors.abort(context, error, name)

    async def many(_: Any, context: Context) -> AsyncIterator[None]:
        await errors.abort(context, error, name)
        yield  # what makes it a stream

    kinds = {
        (False, False): (grpc.unary_unary_rpc_method_handler, one),
        (False, True): (grpc.unary_stream_rpc_method_handler, many),
        (True, False): (grpc.stream_unary_rpc_method_handler, one),
        (True, True): (grpc.stream_stream_rpc_method_handler, many),
    }
    make, refuse = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(refuse)
