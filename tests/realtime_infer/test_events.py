"""Behaviour events through both write doors: the same answers, the same errors, on disk and readable."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import httpx
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from redis.asyncio import Redis

from contracts.errors import InvalidInput, RepcenterError, TooLarge, Unavailable
from contracts.events import MAX_AHEAD_MS, MAX_EVENTS, Appended, Event
from contracts.request import Behaviour
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from param_server.behaviours import Behaviours, Count
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from realtime_infer.app import RunningDoor, open_door
from realtime_infer.event_body import EXAMPLE, EXAMPLE_LINES, NDJSON
from realtime_infer.settings import EncoderSettings
from serving.client import GrpcClient, HttpClient
from tests.contracts.hostile import BAD_IDS, ODD_IDS
from tests.realtime_infer.workers import process, wait_line

PROBLEM = "application/problem+json"
HEADERS = {"content-type": NDJSON}


def lines(*events: dict[str, object]) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events)


async def test_one_event_and_a_batch(redis: Redis, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/events", json=EXAMPLE)
    assert (answer.status_code, answer.json()["appended"]) == (200, 1)
    answer = await http.post("/v1/events", content=f"\n{EXAMPLE_LINES}\n", headers=HEADERS)
    assert answer.json() == {"appended": 1, "duplicates": 1, "too_old": 0, "forgotten": 0, "ignored": 0}
    assert await Behaviours(redis).read(["u42", "u43"]) == [
        [Behaviour("film-318", 1_700_000_000_000)],
        [Behaviour("film-50", 1_700_000_000_120)],
    ]
    answer = await http.post("/v1/events", content=b"", headers=HEADERS)
    assert answer.json()["appended"] == 0


async def test_an_event_without_a_time_happened_now(redis: Redis, http: httpx.AsyncClient) -> None:
    began = time.time_ns() // 1_000_000
    await http.post("/v1/events", json={"user_id": "u", "item_id": "a"})
    ((behaviour,),) = await Behaviours(redis).read(["u"])
    assert behaviour.timestamp_ms is not None
    assert began <= behaviour.timestamp_ms <= time.time_ns() // 1_000_000


async def test_both_doors_say_the_same(door: RunningDoor, redis: Redis) -> None:
    now = time.time_ns() // 1_000_000
    calls: list[list[Event]] = [
        [Event("ü{}\0", "a", 5, "e1"), Event("ü{}\0", "b", 3), Event("v", "é" * 128, 9, None, "buy")],
        [Event("ü{}\0", "a", 5, "e1"), Event("ü{}\0", "c", 4)],
        [],
        [Event("v", "x", 1), Event("", "x", 1)],
        [Event("v", "x" * 257, 1)],
        [Event("v", "x", 1, "")],
        [Event("v", "x", 1, None, "k" * 257)],
        [Event("v", "x", -1)],
        [Event("v", "x", 2**53)],
        [Event("v", "x", now + 2 * MAX_AHEAD_MS)],
        [Event("v", "x", 1)] * (MAX_EVENTS + 1),
    ]

    async def ask(client: HttpClient | GrpcClient) -> list[object]:
        said: list[object] = []
        for call in calls:
            try:
                said.append(await client.append(call))
            except (InvalidInput, TooLarge) as error:
                said.append((type(error), error.field, str(error)))
        said.append(await Behaviours(redis).read(["ü{}\0", "v"]))
        forgotten = await client.forget("ü{}\0")
        said += [forgotten.user_id, forgotten.behaviours, await client.append(calls[1])]
        with pytest.raises(InvalidInput, match="user_id"):
            await client.forget("")
        await redis.flushdb()
        return said

    async with HttpClient(door.http_url) as http, GrpcClient(door.grpc_target) as rpc:
        first, second = await ask(http), await ask(rpc)
    assert first == second
    assert first[:3] == [Appended(3), Appended(1, 1), Appended()]
    fields = [said[1] for said in first[3:11] if isinstance(said, tuple)]
    assert fields[:2] == ["events[1].user_id", "events[0].item_id"]
    assert fields[2:] == [
        *("events[0].event_id", "events[0].kind"),
        *(["events[0].timestamp_ms"] * 3),
        "events",
    ]
    assert first[-3:] == ["ü{}\0", 3, Appended(forgotten=2)]


@pytest.mark.parametrize(
    ("body", "kind", "field", "status"),
    [
        (b"", "application/json", "body", 422),
        (b"[]", "application/json", "body", 422),
        (b'{"item_id": "a"}', "application/json", "user_id", 422),
        (b'{"user_id": "u", "item_id": 7}', "application/json", "item_id", 422),
        (b'{"user_id": "u", "item_id": ""}', "application/json", "item_id", 422),
        (b'{"user_id": "u", "item_id": "a", "at": 1}', "application/json", "at", 422),
        (b'{"user_id": "u", "item_id": "a", "timestamp_ms": 1.5}', "application/json", "timestamp_ms", 422),
        (b'{"user_id": "u", "item_id": "a", "timestamp_ms": true}', NDJSON, "events[0].timestamp_ms", 422),
        (b'{"user_id": "u", "item_id": "a"}\n{"user_id"', NDJSON, "events[1]", 422),
        (b'{"user_id": "u", "item_id": "a"}\n\n{"user_id": "u"}', NDJSON, "events[1].item_id", 422),
        (b'{"user_id": "u", "item_id": "a"}\n7', NDJSON, "events[1]", 422),
        (b'{"user_id": "u", "item_id": "\xff"}', NDJSON, "events[0]", 422),
        (b'{"user_id": "u", "item_id": "' + b"x" * 10_000 + b'"}', NDJSON, "events[0].item_id", 413),
        (b"{}\n" * (MAX_EVENTS + 1), NDJSON, "events", 413),
    ],
)
async def test_unusable_bodies_name_index_and_field(
    redis: Redis, http: httpx.AsyncClient, body: bytes, kind: str, field: str, status: int
) -> None:
    answer = await http.post("/v1/events", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert await Behaviours(redis).count() == Count(0, 0)  # a batch is taken as a whole or not at all


@pytest.mark.parametrize("user", [b for b in BAD_IDS if isinstance(b, str) and b.isprintable()])
async def test_bad_users_are_named(http: httpx.AsyncClient, user: str) -> None:
    answer = await http.delete(f"/v1/users/{quote(user)}")
    assert answer.status_code in (413, 422)
    assert answer.json()["errors"][0]["field"] == "user_id"


async def test_a_path_that_is_not_utf_8_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/v1/users/%ff")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "user_id")


async def test_other_content_types_and_large_bodies_are_refused(
    encoder_settings: EncoderSettings, settings: StoreSettings, redis: Redis
) -> None:
    small = encoder_settings.model_copy(update={"max_body_bytes": 2_000})
    async with (
        open_door(small, settings) as door,
        httpx.AsyncClient(base_url=door.http_url) as http,
    ):
        answer = await http.post("/v1/events", content=b"{}", headers={"content-type": "text/csv"})
        assert answer.status_code == 415
        answer = await http.post("/v1/events", content=b" " * 3_000, headers=HEADERS)
        assert answer.status_code == 413


@pytest.mark.parametrize("user", [*ODD_IDS, ".", "..", "a/../b", "a?b#c", "%2F"])
async def test_odd_users_survive_the_way_through_a_url(door: RunningDoor, user: str) -> None:
    async with HttpClient(door.http_url) as client:
        assert (await client.append([Event(user, user, 5)])).appended == 1
        done = await client.forget(user)
        assert (done.user_id, done.behaviours) == (user, 1)


async def test_the_cap_and_the_kinds_are_settings(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    few = encoder_settings.model_copy(update={"max_behaviours": 2, "event_kinds": ["buy"]})
    async with open_door(few, settings) as door, HttpClient(door.http_url) as client:
        events = [Event("u", f"i{n}", n, None, "buy" if n % 2 else "view") for n in range(10)]
        assert await client.append(events) == Appended(appended=2, too_old=3, ignored=5)
        assert await client.append([Event("u", "late", 6, None, "buy")]) == Appended(too_old=1)
    assert await Behaviours(redis).read(["u"]) == [[Behaviour("i7", 7), Behaviour("i9", 9)]]


async def test_more_calls_than_places_are_refused_with_a_time(
    encoder_settings: EncoderSettings, settings: StoreSettings, redis: Redis
) -> None:
    one = encoder_settings.model_copy(update={"max_in_flight": 1, "retry_after_s": 2.0})
    async with open_door(one, settings) as door, httpx.AsyncClient(base_url=door.http_url) as http:
        body = lines(*({"user_id": f"u{n}", "item_id": "a", "timestamp_ms": n} for n in range(5_000)))
        answers = await asyncio.gather(
            *(http.post("/v1/events", content=body, headers=HEADERS) for _ in range(4))
        )
    assert sorted({answer.status_code for answer in answers}) == [200, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "2"
    assert await Behaviours(redis).count() == Count(5_000, 5_000)


async def test_a_server_that_does_not_keep_is_a_503_that_says_how_to_mend_it(
    redis: Redis, http: httpx.AsyncClient, door: RunningDoor
) -> None:
    await redis.config_set("appendonly", "no")
    try:
        answer = await http.post("/v1/events", json=EXAMPLE)
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
        assert "CONFIG SET appendonly yes" in answer.json()["detail"]
        async with GrpcClient(door.grpc_target) as rpc:
            with pytest.raises(Unavailable, match="CONFIG SET appendonly yes"):
                await rpc.append([Event("u", "a", 1)])
    finally:
        await redis.config_set("appendonly", "yes")
    assert (await http.post("/v1/events", json=EXAMPLE)).status_code == 200


async def test_metrics_and_openapi(redis: Redis, http: httpx.AsyncClient) -> None:
    await http.post("/v1/events", json=EXAMPLE)
    await http.post("/v1/events", content=b"7", headers=HEADERS)
    await http.delete("/v1/users/u42")
    text = (await http.get("/metrics")).text
    assert 'repcenter_event_calls_total{door="http",operation="append",outcome="ok"} 1.0' in text
    assert 'repcenter_event_calls_total{door="http",operation="append",outcome="invalid"} 1.0' in text
    assert 'repcenter_event_calls_total{door="http",operation="forget",outcome="ok"} 1.0' in text
    assert 'repcenter_events_total{became="appended"} 1.0' in text
    assert "u42" not in text
    document = (await http.get("/openapi.json")).json()
    content = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", NDJSON}
    assert content["application/json"]["example"] == EXAMPLE
    assert "/v1/users/{user_id}" in document["paths"]


async def test_the_grpc_door_tells_of_both_services(door: RunningDoor) -> None:
    with grpc.insecure_channel(door.grpc_target) as channel:
        names = await asyncio.to_thread(
            lambda: set(ProtoReflectionDescriptorDatabase(channel).get_services())
        )
    assert {"repcenter.v1.Items", "repcenter.v1.Events"} <= names


async def test_an_unforeseen_message_is_no_stack_trace(door: RunningDoor) -> None:
    async with grpc.aio.insecure_channel(door.grpc_target) as channel:
        stub: Any = pb_grpc.EventsStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Append(pb.AppendEventsRequest(events=[pb.Event()]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    problem = json.loads(dict(caught.value.trailing_metadata())["repcenter-problem-bin"])
    assert problem["errors"][0]["field"] == "events[0].user_id"


async def test_kill_9_of_the_door_and_of_the_server_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    server = EmbeddedServer.start(tmp_path)
    with process("run_door", server.url, max_behaviours=1_000) as door:
        url = wait_line(door, "ready").split()[1].removeprefix("http=")
        async with HttpClient(url) as client:

            async def send(writer: int) -> None:
                for n in range(400):
                    names = [f"w{writer}-{n}-{i}" for i in range(20)]
                    try:
                        await client.append([Event(f"u{n % 40}", name, 1_000 + n) for name in names])
                    except RepcenterError:
                        return
                    acknowledged.extend(f"u{n % 40} {name}" for name in names)

            writers = [asyncio.create_task(send(writer)) for writer in range(4)]
            await asyncio.sleep(1.0)
            server.kill()
            door.send_signal(signal.SIGKILL)
            await asyncio.gather(*writers)
    assert len(acknowledged) > 100
    with EmbeddedServer.start(tmp_path) as again:
        async with connect(again.url, StoreSettings()) as redis:
            users = [f"u{n}" for n in range(40)]
            histories = await Behaviours(redis).read(users)
    found = {f"{u} {b.item_id}" for u, history in zip(users, histories, strict=True) for b in history}
    assert set(acknowledged) <= found
