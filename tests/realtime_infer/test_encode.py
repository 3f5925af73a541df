"""Synchronous encoding by HTTP and gRPC: the same bytes as a push, early refusals, batches, deadlines."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.errors import BrokenBundle, DeadlineExceeded, InvalidInput, Overloaded
from contracts.items import AttributeValue, Item
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from doors.shutdown import cancel
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import RunningEncoder, open_encoder
from realtime_infer.encode_metrics import EncodeMetrics
from realtime_infer.encode_queue import EncodeQueue, ItemVectors
from realtime_infer.encoder import Encoder, Prepared, join
from realtime_infer.ingest import Ingest
from realtime_infer.pictures import Pictures, decode_here
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import picture
from tests.realtime_infer.workers import ended, until, working

RED = picture((220, 20, 20))
PROBLEM = "application/problem+json"


@pytest_asyncio.fixture
async def running(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> AsyncIterator[RunningEncoder]:
    async with open_encoder(encoder_settings, settings) as door:
        yield door


@pytest_asyncio.fixture
async def client(running: RunningEncoder) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.http_url, timeout=15) as http:
        yield http


async def test_the_bytes_are_those_that_a_push_stores(
    client: httpx.AsyncClient,
    running: RunningEncoder,
    ingest: Ingest,
    store: Store,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    attributes: dict[str, AttributeValue] = {"genres": ["Crime", "Drama"], "year": 1995}
    async with working(encoder_settings, settings):
        await ingest.push(Item("a", {"title": "Heat"}, attributes, RED))
        await ended(ingest, ["a"])
    stored = (await store.fetch(encoder.space, None, ["a"])).records.copy()
    stored["sequence"] = 0
    body = {
        "items": [{"title": "Heat", "attributes": attributes, "image": base64.b64encode(RED).decode()}],
        "records": True,
        "format": "base64",
    }
    answer = (await client.post("/v1/encode", json=body)).json()
    assert (answer["space_id"], answer["encoder_digest"]) == (encoder.space.id, encoder.digest)
    (item,) = answer["items"]
    assert base64.b64decode(item["record"]) == stored.tobytes()
    floats = (await client.post("/v1/encode", json={**body, "format": "floats"})).json()["items"][0]
    assert set(item["vectors"]) == {"text", "image", "fused"}
    for name, values in item["vectors"].items():
        vector = np.frombuffer(base64.b64decode(values), "<f4")
        np.testing.assert_array_equal(vector, np.array(floats["vectors"][name], np.float32))
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    async with grpc.aio.insecure_channel(running.grpc_target) as channel:
        stub: Any = pb_grpc.EncoderStub(channel)  # type: ignore[no-untyped-call]
        message = pb.Item(
            text={"title": "Heat"},
            attributes={
                "genres": pb.Attribute(tokens=pb.TokenList(values=["Crime", "Drama"])),
                "year": pb.Attribute(number=1995),
            },
            image=RED,
        )
        response = await stub.Encode(pb.EncodeRequest(items=[message], records=True))
    assert response.items[0].record == stored.tobytes()
    values = np.array(response.items[0].vectors["text"].values, np.float32)
    np.testing.assert_array_equal(values, np.array(floats["vectors"]["text"], np.float32))


async def test_a_query_has_no_picture_and_a_bad_item_fails_alone(
    client: httpx.AsyncClient, running: RunningEncoder
) -> None:
    bad = base64.b64encode(b"no picture").decode()
    body = {"items": [{"title": "red shoes"}, {"image": bad}, {}, {"text": {"title": "blue"}}]}
    items = (await client.post("/v1/encode", json=body)).json()["items"]
    assert "image" not in items[0]["vectors"]
    assert [item["problem"]["status"] for item in items[1:3]] == [422, 422]
    assert "items[2]" in items[2]["problem"]["detail"]
    assert "text" in items[3]["vectors"]
    async with grpc.aio.insecure_channel(running.grpc_target) as channel:
        stub: Any = pb_grpc.EncoderStub(channel)  # type: ignore[no-untyped-call]
        messages = [pb.Item(text={"title": "red shoes"}), pb.Item(image=b"no picture")]
        response = await stub.Encode(pb.EncodeRequest(items=messages))
        assert [item.refusal.code for item in response.items] == ["", "invalid"]
        values = list(response.items[0].vectors["text"].values)
        np.testing.assert_allclose(values, items[0]["vectors"]["text"], atol=1e-6)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Encode(pb.EncodeRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    metrics = (await client.get("/metrics")).text
    assert 'repcenter_encode_failures_total{code="invalid"} 3.0' in metrics
    assert 'repcenter_encode_total{door="grpc",outcome="invalid"} 1.0' in metrics


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"items": []}, 422, "items"),
        ({}, 422, "items"),
        ({"items": [{"title": "x"}] * 65}, 413, "items"),
        ({"items": [{"item_id": "a", "title": "x"}]}, 422, "items[0].item_id"),
        ({"items": [{"title": "x"}], "format": "pickle"}, 422, "format"),
        ({"items": [{"title": "x"}], "deadline_ms": 0}, 422, "deadline_ms"),
        ({"items": [{"title": "x"}, {"image": "%"}]}, 422, "image"),
    ],
)
async def test_unusable_requests_name_the_field(
    client: httpx.AsyncClient, body: object, status: int, field: str
) -> None:
    answer = await client.post("/v1/encode", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["errors"][0]["field"] == field


async def test_health_documentation_and_a_scene_without_an_encoder(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings, client: httpx.AsyncClient
) -> None:
    async def ready() -> bool:
        return (await client.get("/health/ready")).status_code == 200

    await until(ready)
    assert "/v1/encode" in (await client.get("/openapi.json")).json()["paths"]
    without = encoder_settings.model_copy(update={"encoder_uri": None})
    async with (
        open_encoder(without, settings) as door,
        httpx.AsyncClient(base_url=door.http_url, timeout=15) as http,
    ):
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.get("/health/ready")).status_code == 503
        answer = await http.post("/v1/encode", json={"items": [{"title": "x"}]})
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)


class Held:
    """An encoder whose pictures are decoded once it is let go; counts the runs of its graphs."""

    def __init__(self, encoder: Encoder, settings: EncoderSettings) -> None:
        self.encoder = encoder
        self.gate = asyncio.Event()
        self.metrics = EncodeMetrics()
        self.queue = EncodeQueue(self.source, self.load, settings, self.metrics)

    async def source(self) -> Encoder:
        return self.encoder

    async def load(self, items: Sequence[Item], size: tuple[int, int]) -> Pictures:
        await self.gate.wait()
        return decode_here(items, size)

    @property
    def runs(self) -> float:
        value = self.metrics.registry.get_sample_value("repcenter_encode_batch_items_count")
        assert value is not None
        return value


def text(title: str) -> list[Item]:
    return [Item("q", {"title": title})]


async def test_requests_that_come_together_share_a_run(
    encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    held = Held(encoder, encoder_settings.model_copy(update={"encode_window_ms": 1_000, "encode_batch": 20}))
    task = asyncio.create_task(held.queue.run())
    held.gate.set()
    alone = [next((await held.queue.encode(text(f"title {n}"))).items()) for n in range(3)]
    assert held.runs == 3
    found = await asyncio.gather(*(held.queue.encode(text(f"title {n % 3}"), 20) for n in range(20)))
    assert held.runs == 4
    for n, vectors in enumerate(found):
        (one,), expected = list(vectors.items()), alone[n % 3]
        assert isinstance(one, ItemVectors)
        assert isinstance(expected, ItemVectors)
        np.testing.assert_allclose(one.vectors["text"], expected.vectors["text"], atol=1e-5)
    await cancel(task)


async def test_what_does_not_fit_is_refused_at_once_and_a_place_comes_back(
    encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    held = Held(
        encoder, encoder_settings.model_copy(update={"max_encode_items": 3, "max_encode_bytes": 1 << 20})
    )
    task = asyncio.create_task(held.queue.run())
    first = asyncio.create_task(held.queue.encode(text("a") * 2, 20))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 items wait"):
        await held.queue.encode(text("b") * 2)
    with pytest.raises(Overloaded, match="pictures of 0 bytes"):
        await held.queue.encode([Item("q", image=b"x" * (2 << 20))])
    with pytest.raises(DeadlineExceeded, match=r"1 items were not encoded in 0\.01 s"):
        await held.queue.encode(text("c"), 0.01)
    held.gate.set()
    assert len((await first).records) == 2
    assert len((await held.queue.encode(text("b") * 3)).records) == 3
    await cancel(task)


async def test_a_deadline_that_cannot_be_met_is_refused_early(
    encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    held = Held(encoder, encoder_settings)
    task = asyncio.create_task(held.queue.run())
    held.gate.set()
    await held.queue.encode(text("learns how long an item takes"))
    held.gate.clear()
    first = asyncio.create_task(held.queue.encode(text("a") * 60, 20))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="60 items wait, which takes") as caught:
        await held.queue.encode(text("b"), 1e-6)
    assert caught.value.retry_after_s > 0
    held.gate.set()
    await first
    await cancel(task)


class Poisoned(Encoder):
    """Raises on an item with this id, whatever it runs with; broken: on its golden inputs too."""

    broken = False

    def run(self, prepared: Prepared) -> Any:
        if "poison" in prepared.item_ids:
            raise MemoryError("of a test")
        return super().run(prepared)

    def check(self) -> float:
        if self.broken:
            raise BrokenBundle("golden")
        return super().check()


async def test_an_item_on_which_the_graphs_raise_fails_alone(
    encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    poisoned = Poisoned.open(str(encoder_settings.encoder_uri))
    held = Held(poisoned, encoder_settings)
    held.gate.set()
    task = asyncio.create_task(held.queue.run())
    items = [*text("a"), Item("poison", {"title": "b"}), *text("c")]
    kinds = [type(found) for found in (await held.queue.encode(items)).items()]
    assert kinds == [ItemVectors, InvalidInput, ItemVectors]
    poisoned.broken = True
    with pytest.raises(BrokenBundle):
        await held.queue.encode(items)
    assert len((await held.queue.encode(text("d"))).records) == 1
    await cancel(task)


def test_prepared_items_of_several_requests_are_one_batch(encoder: Encoder) -> None:
    items = [Item("a", {"title": "x"}), Item("b", image=RED), Item("c"), Item("d", {"title": "y"}, image=RED)]

    def prepare(some: list[Item]) -> Prepared:
        return encoder.prepare(some, decode_here(some, encoder.picture_size))

    together, joined = prepare(items), join([prepare(items[:1]), prepare(items[1:3]), prepare(items[3:])])
    assert joined.item_ids == together.item_ids
    assert list(joined.tokens) == list(together.tokens) == [0, 3]
    assert list(joined.pixels) == list(together.pixels) == [1, 3]
    assert list(joined.failures) == list(together.failures) == [2]
    np.testing.assert_array_equal(joined.attributes, together.attributes)
