from __future__ import annotations

import asyncio
import base64
import json
import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.items import Item
from contracts.manifest import IdTable
from doors.http_server import http_server
from param_server.generations import Generations
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import RunningDoor, open_door
from realtime_infer.bulk import Bulks
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.item_body import EXAMPLE
from realtime_infer.metrics import DoorMetrics
from realtime_infer.push_entry import decode_entry
from realtime_infer.rest import create_app
from realtime_infer.settings import EncoderSettings
from realtime_infer.statuses import Statuses
from tests.contracts.hostile import BAD_IDS, ODD_IDS
from tests.encoder_bundle import picture
from tests.param_server.samples import make_deletes, make_generation, make_id_rows, make_window, seal_ranker
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import KEYS, working

BLUE = picture((20, 20, 220))
PROBLEM = "application/problem+json"


async def accepted(redis: Redis) -> list[Item | None]:
    return [decode_entry(fields).item for _, fields in await entries(redis, KEYS.pushes)]


async def test_push_until_scoreable(
    http: httpx.AsyncClient,
    store: Store,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    body = {
        "item_id": "heat 1995/ü",
        "title": "Heat",
        "attributes": {"genres": ["Crime", "Drama"], "year": 1995},
        "image": base64.b64encode(BLUE).decode(),
    }
    async with working(encoder_settings.model_copy(update={"http_port": 0}), settings):
        answer = await http.post("/v1/items", json=body)
        assert answer.status_code == 202
        receipt = answer.json()
        assert receipt["item_id"] == body["item_id"]
        assert answer.headers["location"] == receipt["status_url"] == "/v1/items/heat%201995%2F%C3%BC"
        answer = await http.get(receipt["status_url"], params={"wait_ms": 10_000})
        status = answer.json()
        assert (status["state"], status["sequence"]) == ("scoreable", receipt["sequence"])
        assert status["reason"] is None
        assert (await store.fetch(encoder.space, None, ["heat 1995/ü"])).found.all()
        answer = await http.delete(receipt["status_url"])
        assert answer.status_code == 202
        status = (await http.get(receipt["status_url"], params={"wait_ms": 10_000})).json()
        assert (status["state"], status["sequence"]) == ("deleted", answer.json()["sequence"])


async def test_a_poison_picture_is_dead_with_its_reason(
    http: httpx.AsyncClient, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with working(encoder_settings, settings):
        body = {"item_id": "p", "image": base64.b64encode(b"no picture at all").decode()}
        assert (await http.post("/v1/items", json=body)).status_code == 202
        status = (await http.get("/v1/items/p", params={"wait_ms": 10_000})).json()
    assert status["state"] == "dead"
    assert "not a readable picture" in status["reason"]


async def test_pictures_come_as_base64_or_data_uri_and_titles_as_a_shorthand(
    redis: Redis, http: httpx.AsyncClient
) -> None:
    encoded = base64.b64encode(BLUE).decode()
    wrapped = "\n".join(encoded[i : i + 60] for i in range(0, len(encoded), 60))
    for image in (encoded, wrapped, f"data:image/png;base64,{encoded}"):
        answer = await http.post("/v1/items", json={"item_id": "a", "image": image, "text": {"title": "x"}})
        assert answer.status_code == 202
    assert (await http.post("/v1/items", json=EXAMPLE)).status_code == 202
    items = await accepted(redis)
    assert items[:3] == [Item("a", {"title": "x"}, {}, BLUE)] * 3
    last = items[3]
    assert last is not None
    assert last.text == {"title": "Heat", "plot": "A master thief and a detective hunt each other."}
    assert last.attributes == {"genres": ["Crime", "Drama"], "year": 1995}


@pytest.mark.parametrize("item_id", [*ODD_IDS, ".", "..", "a/../b", "a?b#c", "%2F", "+"])
async def test_odd_ids_survive_the_way_through_a_url(http: httpx.AsyncClient, item_id: str) -> None:
    receipt = (await http.post("/v1/items", json={"item_id": item_id, "title": "x"})).json()
    status = (await http.get(receipt["status_url"])).json()
    assert (status["item_id"], status["state"]) == (item_id, "queued")
    assert (await http.delete(receipt["status_url"])).json()["item_id"] == item_id


@pytest.mark.parametrize("item_id", [i for i in BAD_IDS if not isinstance(i, bytes) and i == i])
async def test_bad_ids_are_named(redis: Redis, http: httpx.AsyncClient, item_id: object) -> None:
    body = json.dumps({"item_id": item_id, "title": "x"})
    answer = await http.post("/v1/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (413, 422), answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["errors"][0]["field"] in ("item_id", "body")
    assert await accepted(redis) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"item_id": "a"}, "item"),
        ({"item_id": "a", "title": " "}, "item"),
        ({"title": "x"}, "item_id"),
        ({"item_id": "a", "title": 7}, "title"),
        ({"item_id": "a", "title": "x", "text": {"title": "y"}}, "title"),
        ({"item_id": "a", "text": {"title": None}}, "text.title"),
        ({"item_id": "a", "title": "x", "colour": "red"}, "colour"),
        ({"item_id": "a", "title": "x", "attributes": {"year": True}}, "attributes.year"),
        ({"item_id": "a", "title": "x", "attributes": {"year": None}}, "attributes.year"),
        ({"item_id": "a", "title": "x", "attributes": {"year": 1e300}}, "attributes.year"),
        ({"item_id": "a", "title": "x", "attributes": {"year": 10**20}}, "attributes.year"),
        ({"item_id": "a", "title": "x", "attributes": {"year": -(2**63) - 1}}, "attributes.year"),
        ({"item_id": "a", "title": "x", "attributes": {"genres": [1]}}, "attributes.genres"),
        ({"item_id": "a", "title": "x", "attributes": {"genres": {"a": "b"}}}, "attributes.genres"),
        ({"item_id": "a", "image": "https://example.com/cat.png"}, "image"),
        ({"item_id": "a", "image": "data:image/png,raw"}, "image"),
        ({"item_id": "a", "image": ""}, "image"),
        ([], "body"),
    ],
)
async def test_unusable_bodies_name_field_and_value(
    redis: Redis, http: httpx.AsyncClient, body: object, field: str
) -> None:
    answer = await http.post("/v1/items", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["type"] == "urn:repcenter:problem:invalid"
    assert problem["instance"] == "/v1/items"
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await accepted(redis) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"item_id": "a", "title": "x", "attributes": {"year": NaN}}',
        b"\xff\xfe\x00",
    ],
)
async def test_broken_json_is_a_problem(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == PROBLEM


@pytest_asyncio.fixture
async def small_http(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> AsyncIterator[httpx.AsyncClient]:
    small = encoder_settings.model_copy(
        update={"max_body_bytes": 2_000, "max_backlog": 2, "retry_after_s": 3, "max_waits": 2}
    )
    async with (
        open_door(small, settings) as running,
        httpx.AsyncClient(base_url=running.http_url, timeout=15) as client,
    ):
        yield client


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_413_before_it_is_parsed(
    redis: Redis, small_http: httpx.AsyncClient, declared: bool
) -> None:
    body = json.dumps({"item_id": "a", "title": "x" * 5_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 500):
            yield body[start : start + 500]

    content = body if declared else chunks()
    answer = await small_http.post("/v1/items", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["errors"][0]["field"] == "body"
    assert await accepted(redis) == []


async def test_a_full_backlog_is_429_with_a_time(redis: Redis, small_http: httpx.AsyncClient) -> None:
    for item_id in ("a", "b"):
        assert (
            await small_http.post("/v1/items", json={"item_id": item_id, "title": "x"})
        ).status_code == 202
    answer = await small_http.post("/v1/items", json={"item_id": "c", "title": "x"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["type"] == "urn:repcenter:problem:overloaded"
    assert (await small_http.delete("/v1/items/a")).status_code == 429
    assert len(await accepted(redis)) == 2
    metrics = (await small_http.get("/metrics")).text
    assert 'repcenter_push_total{door="http",operation="push",outcome="accepted"} 2.0' in metrics
    assert 'repcenter_push_total{door="http",operation="push",outcome="overloaded"} 1.0' in metrics
    assert "repcenter_backlog_entries 2.0" in metrics


async def test_waits_are_bounded_in_time_and_number(small_http: httpx.AsyncClient) -> None:
    await small_http.post("/v1/items", json={"item_id": "a", "title": "x"})
    answers = await asyncio.gather(
        *(small_http.get("/v1/items/a", params={"wait_ms": 300}) for _ in range(5))
    )
    assert sorted(a.status_code for a in answers) == [200, 200, 429, 429, 429]
    assert {a.json()["state"] for a in answers if a.status_code == 200} == {"queued"}
    for wait_ms in (-1, 10_001, "soon"):
        answer = await small_http.get("/v1/items/a", params={"wait_ms": wait_ms})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "query.wait_ms"


async def test_unknown_things_are_problems(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/items/nobody")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert answer.json()["type"] == "urn:repcenter:problem:not_found"
    for method, path, status in [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/items", 405),
        ("PUT", "/v1/items/a", 405),
        ("GET", "/v1/items/%ff", 422),
        ("DELETE", "/v1/items/%ff", 422),
        ("DELETE", f"/v1/items/{quote('é' * 129)}", 413),
    ]:
        answer = await http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), path
    answer = await http.post("/v1/items", content=b"a=b", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.headers["content-type"]) == (415, PROBLEM)


async def test_answers_do_not_wait_for_delayed_acknowledgements(http: httpx.AsyncClient) -> None:
    """Without TCP_NODELAY most of them would take 40 ms and more, however idle the machine is."""
    bodies = [{"item_id": f"item {n}", "title": "x"} for n in range(60)]
    seconds = [(await http.post("/v1/items", json=body)).elapsed.total_seconds() for body in bodies]
    assert statistics.median(seconds) < 0.035


async def test_health_and_documentation(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).json() == {"status": "live"}
    assert (await http.get("/health/ready")).json() == {"status": "ready"}
    document = (await http.get("/openapi.json")).json()
    assert set(document["paths"]) >= {"/v1/items", "/v1/items/{item_id}", "/health/ready", "/metrics"}
    push = document["paths"]["/v1/items"]["post"]
    assert push["requestBody"]["content"]["application/json"]["example"] == EXAMPLE
    assert {"202", "413", "422", "429", "503"} <= set(push["responses"])
    assert (await http.get("/docs")).status_code == 200


async def test_a_dead_stream_is_503_and_not_ready(
    door: RunningDoor, http: httpx.AsyncClient, redis: Redis
) -> None:
    """A server that stops keeping what it acknowledges must not be pushed to."""
    await redis.config_set("appendonly", "no")
    try:
        answer = await http.get("/health/ready")
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
        assert "CONFIG SET appendonly yes" in answer.json()["detail"]
        answer = await http.post("/v1/items", json={"item_id": "a", "title": "x"})
        assert answer.status_code == 503
    finally:
        await redis.config_set("appendonly", "yes")
    assert (await http.get("/health/ready")).status_code == 200
    assert (await http.post("/v1/items", json={"item_id": "a", "title": "x"})).status_code == 202


async def test_the_status_of_an_item_that_was_never_pushed_is_its_records(
    redis: Redis, tmp_path: Path, store: Store, encoder: Encoder, http: httpx.AsyncClient
) -> None:
    table = IdTable("table", 2, 16, 3)
    await store.load_id_rows(table, ["x", "y", "z"], make_id_rows(3))
    await store.seal_id_table(table)
    generations = Generations(redis)
    ranker = seal_ranker(tmp_path / "ranker", encoder.space, 3)
    await generations.activate(
        "default", await generations.publish(make_generation(ranker, encoder.space, table))
    )
    await store.commit_window(make_window(encoder.space, ["live"], [41]))
    await store.commit_window(make_deletes(encoder.space, ["gone"], [42]))
    unknown = {"reason": None, "updated_ms": None}
    live, gone = (await http.get("/v1/items/live")).json(), (await http.get("/v1/items/gone")).json()
    assert live == {"item_id": "live", "state": "scoreable", "sequence": 41, **unknown}
    assert gone == {"item_id": "gone", "state": "deleted", "sequence": 42, **unknown}
    assert (await http.get("/v1/items/nobody")).status_code == 404


async def test_a_place_is_taken_before_a_body_is_read(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    """The second push is refused while the body of the first is still on its way."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"item_id": "slow", '
        begun.set()
        await go_on.wait()
        yield b'"title": "x"}'

    one = encoder_settings.model_copy(update={"max_in_flight": 1, "retry_after_s": 3})
    headers = {"content-type": "application/json"}
    async with (
        open_door(one, settings) as running,
        httpx.AsyncClient(base_url=running.http_url, timeout=15) as client,
    ):
        first = asyncio.create_task(client.post("/v1/items", content=slowly(), headers=headers))
        await begun.wait()
        async with asyncio.timeout(5):
            while (
                answer := await client.post("/v1/items", content=b"{", headers=headers)
            ).status_code != 429:
                assert answer.status_code == 422  # the first one's head has not arrived yet
        assert answer.headers["retry-after"] == "3"
        go_on.set()
        assert (await first).status_code == 202
        assert (await client.post("/v1/items", json={"item_id": "b", "title": "x"})).status_code == 202


async def test_a_body_that_never_ends_gives_its_place_back(
    ingest: Ingest, store: Store, redis: Redis, encoder_settings: EncoderSettings
) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(10)

    statuses = Statuses(ingest, store, Generations(redis), encoder_settings)
    metrics = DoorMetrics()
    bulks = Bulks(ingest, metrics, encoder_settings)
    app = create_app(ingest, statuses, bulks, metrics, 1_000, body_s=0.05)
    async with (
        http_server(app, "127.0.0.1", 0, 2.0) as url,
        httpx.AsyncClient(base_url=url, timeout=15) as client,
    ):
        answer = await client.post("/v1/items", content=never(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (408, PROBLEM)
