"""OpenTelemetry traces, where they are asked for: spans of HTTP requests, gRPC calls and questions to Redis.

Needs the extra `otel`; without `REPCENTER_TRACE` nothing is set up and nothing is wrapped. Where spans go is
said by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, …).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import InvalidInput
from doors.settings import TraceSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

_SKIPPED = ("/health/", "/v2/health/", "/metrics")
_SKIPPED_METHODS = "/grpc.health.v1.Health/"


class Tracing:
    """Begun once, at the start of a process."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.propagate import extract, inject

        self._provider = provider
        self._tracer = provider.get_tracer("repcenter")
        self._trace, self._extract, self._inject = trace, extract, inject

    def http(self, app: ASGIApp) -> ASGIApp:
        """The app, with a span per request in the caller's trace. Health and metrics have none."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"].startswith(_SKIPPED):
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            with self._server_span(scope["method"], headers) as span:
                span.set_attribute("http.request.method", scope["method"])

                async def told(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            span.set_status(self._trace.StatusCode.ERROR)
                    await send(message)

                try:
                    await app(scope, receive, told)
                finally:
                    if (path := getattr(scope.get("route"), "path", None)) is not None:
                        span.update_name(f"{scope['method']} {path}")  # never with an item's id in it
                        span.set_attribute("http.route", path)

        return traced

    def grpc(self) -> grpc.aio.ServerInterceptor:
        """A span per call with one answer; streams of answers have none."""
        return _GrpcTrace(self)

    @contextlib.contextmanager
    def redis(self, what: str) -> Iterator[None]:
        """A span of what is asked of Redis; an error is noted in it."""
        with self._tracer.start_as_current_span(
            what.partition(" ")[0], kind=self._trace.SpanKind.CLIENT
        ) as span:
            span.set_attribute("db.system.name", "redis")
            span.set_attribute("db.operation.name", what)
            yield

    @contextlib.contextmanager
    def call(self, method: str) -> Iterator[dict[str, str]]:
        """A span of a gRPC call to another process -> metadata that carries the trace there."""
        with self._tracer.start_as_current_span(method, kind=self._trace.SpanKind.CLIENT) as span:
            span.set_attribute("rpc.system", "grpc")
            headers: dict[str, str] = {}
            self._inject(headers)
            yield headers

    @contextlib.contextmanager
    def _server_span(self, name: str, headers: dict[str, str]) -> Iterator[Any]:
        context = self._extract(headers)
        with self._tracer.start_as_current_span(name, context, kind=self._trace.SpanKind.SERVER) as span:
            yield span

    def mark(self, record: logging.LogRecord) -> bool:
        """A log line tells the trace that it belongs to."""
        context = self._trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id, record.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        return True

    def stop(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()


class _GrpcTrace(grpc.aio.ServerInterceptor):
    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or handler.response_streaming or method.startswith(_SKIPPED_METHODS):
            return handler
        metadata: Any = handler_call_details.invocation_metadata or ()
        headers = {key: value for key, value in metadata if isinstance(value, str)}
        answer = handler.stream_unary if handler.request_streaming else handler.unary_unary
        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )

        async def traced(request: Any, context: Any) -> Any:
            with self._tracing._server_span(method.removeprefix("/"), headers) as span:
                span.set_attribute("rpc.system", "grpc")
                return await answer(request, context)

        return make(traced, handler.request_deserializer, handler.response_serializer)


def start_tracing(
    process: str, settings: TraceSettings | None = None, processor: SpanProcessor | None = None
) -> Tracing | None:
    """None where it is not asked for. processor: where spans go, None = to OpenTelemetry's collector.

    Raises InvalidInput where the extra is not installed.
    """
    if not (settings or TraceSettings()).trace:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidInput("trace", True, "needs pip install 'repcenter[otel]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"repcenter-{process}"}))
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    tracing = Tracing(provider)
    for handler in logging.getLogger().handlers:
        handler.addFilter(tracing.mark)
    return tracing
