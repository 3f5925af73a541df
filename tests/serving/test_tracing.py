"""Traces of a scorer: a request of a caller's trace, and what it asked of Redis below it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import grpc.aio
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from contracts.rpc.v1 import repcenter_pb2 as pb
from doors.settings import TraceSettings
from doors.tracing import Tracing, start_tracing
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.settings import ScorerSettings
from tests.serving.conftest import World, until

CALLER = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{CALLER}-b7ad6b7169203331-01"


def of_caller(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    found = exporter.get_finished_spans()
    return [s for s in found if s.context is not None and f"{s.context.trace_id:032x}" == CALLER]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
async def test_a_request_and_its_reads_are_one_trace(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, cache_bytes: int
) -> None:
    exporter = InMemorySpanExporter()
    tracing = start_tracing("scorer", TraceSettings(trace=True), SimpleSpanProcessor(exporter))
    assert isinstance(tracing, Tracing)
    changed = scorer_settings.model_copy(update={"cache_bytes": cache_bytes})
    async with (
        open_scorer(changed, settings, tracing=tracing) as running,
        httpx.AsyncClient(base_url=running.http_url, headers={"traceparent": PARENT}) as http,
        grpc.aio.insecure_channel(running.grpc_target) as channel,
    ):
        await until(running.readiness.is_ready)
        assert (await http.post("/v1/score", json={"candidates": ["item-1"]})).status_code == 200
        assert (await http.get("/health/ready")).status_code == 200
        ((one, two), requests) = split(of_caller(exporter))[:2], of_caller(exporter)
        assert (one.name, one.kind) == ("POST /v1/score", SpanKind.SERVER)
        assert (two.kind, two.parent is not None) == (SpanKind.CLIENT, True)
        assert two.attributes is not None
        assert two.attributes["db.system.name"] == "redis"
        assert len([s for s in requests if s.kind is SpanKind.SERVER]) == 1
        exporter.clear()
        score = channel.unary_unary(
            "/repcenter.v1.Scorer/Score",
            request_serializer=pb.ScoreRequest.SerializeToString,
            response_deserializer=pb.ScoreResponse.FromString,
        )
        message = pb.ScoreRequest(candidates=["item-2"])
        assert (await score(message, metadata=(("traceparent", PARENT),))).scores
        one, two = split(of_caller(exporter))
        assert one.name == "repcenter.v1.Scorer/Score"
        exporter.clear()
        assert (await http.post("/v1/score", json={"candidates": [""]})).status_code == 422
        (refused,) = of_caller(exporter)
        assert refused.attributes is not None
        assert refused.attributes["http.response.status_code"] == 422
        assert refused.status.status_code is StatusCode.UNSET
    tracing.stop()


def split(spans: list[ReadableSpan]) -> tuple[ReadableSpan, ReadableSpan]:
    """A request's span and the one below it, of a trace that has both."""
    (server,) = [s for s in spans if s.kind is SpanKind.SERVER]
    (client,) = [s for s in spans if s.kind is SpanKind.CLIENT]
    assert client.parent is not None
    assert server.context is not None
    assert client.parent.span_id == server.context.span_id
    return server, client


def test_a_log_line_tells_its_trace() -> None:
    exporter = InMemorySpanExporter()
    tracing = start_tracing("scorer", TraceSettings(trace=True), SimpleSpanProcessor(exporter))
    assert tracing is not None
    record = logging.makeLogRecord({})
    assert tracing.mark(record)
    assert not hasattr(record, "trace_id")
    with tracing.redis("fetch rows"):
        tracing.mark(record)
    (span,) = exporter.get_finished_spans()
    assert span.name == "fetch"
    assert span.context is not None
    assert vars(record)["trace_id"] == f"{span.context.trace_id:032x}"
    tracing.stop()


def test_unasked_nothing_is_set_up() -> None:
    code = (
        "import sys, serving.app, doors.tracing\n"
        "assert doors.tracing.start_tracing('x') is None\n"
        "assert not any(m.startswith('opentelemetry.exporter') for m in sys.modules)\n"
        "assert not any(m.startswith('opentelemetry.sdk.trace') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=60)
