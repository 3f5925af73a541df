"""What surrounds scoring: OpenAPI, metrics, health, reflection."""

from __future__ import annotations

import asyncio
import time

import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from contracts.request import Behaviour, ScoreRequest
from param_server import keys
from serving.answer_json import EXAMPLE_ANSWER, ScoreAnswer
from serving.app import RunningScorer
from serving.client import GrpcClient, HttpClient
from tests.serving.conftest import COLD, World


async def test_openapi_documents_what_the_door_does(running: RunningScorer) -> None:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        document = (await http.get("/openapi.json")).json()
        score = document["paths"]["/v1/score"]["post"]
        body = score["requestBody"]["content"]["application/json"]
        assert set(body["schema"]["properties"]) == {
            *("candidates", "behaviours", "scene", "user_id"),
            *("generation", "deadline_ms", "top_k"),
            *("user", "context", "timestamp_ms", "query", "request_id", "explain"),
            *("missing", "default_score", "priority", "query_text", "query_image", "contents"),
        }
        assert "$ref" not in str(body["schema"])  # nothing that OpenAPI would look for elsewhere
        assert set(score["responses"]) == {"200", "404", "409", "413", "422", "429", "503", "504"}
        assert "application/problem+json" in score["responses"]["429"]["content"]
        answer = await http.post("/v1/score", json=body["example"])
        assert answer.status_code == 200  # the documented example is a request that works
        ScoreAnswer.model_validate_json(answer.content, strict=True)
        assert set(answer.json()) == set(EXAMPLE_ANSWER)
        assert (await http.get("/docs")).status_code == 200
    assert set(document["paths"]) == {
        *("/v1/score", "/v1/score/many", "/v1/generations", "/metrics"),
        *("/health/live", "/health/ready", "/health/startup"),
        *("/v2", "/v2/health/live", "/v2/health/ready"),
        *("/v2/models/{model}", "/v2/models/{model}/ready", "/v2/models/{model}/infer"),
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
    }


async def test_metrics(running: RunningScorer, world: World) -> None:
    request = ScoreRequest(["item-1", COLD[0], "never-seen", "item-2"], [Behaviour("item-3")])
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            await client.score(request)
    async with httpx.AsyncClient(base_url=running.http_url) as raw:
        await raw.post("/v1/score", json={})
        exposed = (await raw.get("/metrics")).text.splitlines()
    for line in (
        'repcenter_score_request_duration_seconds_count{door="http",outcome="ok"} 1.0',
        'repcenter_score_request_duration_seconds_count{door="grpc",outcome="ok"} 1.0',
        'repcenter_score_request_duration_seconds_count{door="http",outcome="invalid"} 1.0',
        'repcenter_stage_duration_seconds_count{stage="run"} 2.0',
        'repcenter_lookup_total{result="ok"} 4.0',
        'repcenter_lookup_total{result="cold"} 2.0',
        'repcenter_lookup_total{result="missing"} 2.0',
        f'repcenter_generation_info{{generation="{world.generation.id}",scene="default"}} 1.0',
        "repcenter_rows_in_flight 0.0",
        "repcenter_ready 1.0",
        'repcenter_breaker_state{server="tables",state="closed"} 1.0',
    ):
        assert line in exposed


async def test_grpc_health_and_reflection(running: RunningScorer) -> None:
    async with grpc.aio.insecure_channel(running.grpc_target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await running.rpc.tell(True)
        for service in ("", "repcenter.v1.Scorer", "inference.GRPCInferenceService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = await stub.ServerReflectionInfo(iter([asked])).read()
        names = {service.name for service in listed.list_services_response.service}
        assert {"repcenter.v1.Scorer", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


async def test_a_kept_connection_answers_at_once(running: RunningScorer) -> None:
    """Head and body in two segments and an answer in two: without TCP_NODELAY each takes 40 ms."""
    host, port = running.http_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"candidates": ["item-1"]}'
    taken = []
    for _ in range(15):
        began = time.perf_counter()
        writer.write(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        await writer.drain()
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert b'"ok"' in await reader.readexactly(length)
        taken.append(time.perf_counter() - began)
    writer.close()
    assert sorted(taken)[7] < 0.03


async def test_an_error_of_ours_tells_nothing_of_our_insides(running: RunningScorer, world: World) -> None:
    """A stored row of a wrong length is our fault: 500 and INTERNAL, other items go on."""
    space = world.generation.space
    bucket = keys.records(space.id, space.buckets).key_of(b"item-1").decode()
    await world.redis.hset(bucket, "item-1", b"\1\1" + b"x" * 30)
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        answer = await http.post("/v1/score", json={"candidates": ["item-1"]})
        assert answer.status_code == 500
        assert answer.json()["type"] == "urn:repcenter:problem:internal"
        assert "Traceback" not in answer.text
        assert (await http.post("/v1/score", json={"candidates": ["item-2"]})).status_code == 200
