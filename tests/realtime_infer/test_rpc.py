from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from contracts.items import Item
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import RunningDoor, open_door
from realtime_infer.encoder import Encoder
from realtime_infer.push_entry import decode_entry
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import picture
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import KEYS, until, working

RED = picture((220, 20, 20))


@pytest_asyncio.fixture
async def stub(door: RunningDoor) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(door.grpc_target) as channel:
        yield pb_grpc.ItemsStub(channel)  # type: ignore[no-untyped-call]


def push(item_id: str, **fields: Any) -> pb.PushRequest:
    return pb.PushRequest(item=pb.Item(item_id=item_id, **fields))


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_push_until_scoreable_then_deleted(
    stub: Any, store: Store, encoder: Encoder, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async def state(wanted: int) -> bool:
        return bool((await stub.GetStatus(pb.GetStatusRequest(item_id="ü/1"))).state == wanted)

    async with working(encoder_settings, settings):
        receipt = await stub.Push(push("ü/1", text={"title": "Heat"}, image=RED))
        assert receipt.item_id == "ü/1"
        await until(lambda: state(pb.ITEM_STATE_SCOREABLE))
        status = await stub.GetStatus(pb.GetStatusRequest(item_id="ü/1"))
        assert (status.sequence, status.reason) == (receipt.sequence, "")
        assert status.updated_ms > 1_600_000_000_000
        assert (await store.fetch(encoder.space, None, ["ü/1"])).found.all()
        await stub.Delete(pb.DeleteRequest(item_id="ü/1"))
        await until(lambda: state(pb.ITEM_STATE_DELETED))
        await stub.Push(push("ü/1", image=b"poison"))
        await until(lambda: state(pb.ITEM_STATE_DEAD))
        status = await stub.GetStatus(pb.GetStatusRequest(item_id="ü/1"))
        assert "not a readable picture" in status.reason


async def test_every_kind_of_value_arrives(redis: Redis, stub: Any) -> None:
    await stub.Push(
        push(
            "a",
            text={"title": "Heat", "plot": "…"},
            attributes={
                "genres": pb.Attribute(tokens=pb.TokenList(values=["Crime", "Drama"])),
                "year": pb.Attribute(number=1995),
                "colour": pb.Attribute(text="blue|grey"),
            },
            image=RED,
        )
    )
    ((_, fields),) = await entries(redis, KEYS.pushes)
    assert decode_entry(fields).item == Item(
        "a",
        {"title": "Heat", "plot": "…"},
        {"genres": ["Crime", "Drama"], "year": 1995.0, "colour": "blue|grey"},
        RED,
    )


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.PushRequest(), "item"),
        (push(""), "item_id"),
        (push("a"), "item"),
        (push("a", text={"title": "x"}, image=b""), "image"),
        (push("a", text={"title": "x"}, attributes={"year": pb.Attribute()}), "attributes.year"),
        (push("a", text={"title": "x"}, attributes={"y": pb.Attribute(number=float("inf"))}), "attributes.y"),
    ],
)
async def test_unusable_items_are_invalid_arguments_that_name_the_field(
    redis: Redis, stub: Any, request_: pb.PushRequest, field: str
) -> None:
    error = await refused(stub.Push(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    problem = json.loads(dict(error.trailing_metadata())["repcenter-problem-bin"])
    assert problem["errors"][0]["field"] == field
    assert await entries(redis, KEYS.pushes) == []


async def test_unknown_items_are_not_found(stub: Any) -> None:
    error = await refused(stub.GetStatus(pb.GetStatusRequest(item_id="nobody")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_full_backlog_is_resource_exhausted_with_a_time(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    full = encoder_settings.model_copy(update={"max_backlog": 1, "retry_after_s": 2.5})
    async with (
        open_door(full, settings) as door,
        grpc.aio.insecure_channel(door.grpc_target) as channel,
    ):
        stub: Any = pb_grpc.ItemsStub(channel)  # type: ignore[no-untyped-call]
        await stub.Push(push("a", text={"title": "x"}))
        error = await refused(stub.Push(push("b", text={"title": "x"})))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "2500"


async def test_health_follows_the_stream(door: RunningDoor, redis: Redis) -> None:
    serving = health_pb2.HealthCheckResponse.ServingStatus
    async with grpc.aio.insecure_channel(door.grpc_target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        def says(status: int) -> Callable[[], Awaitable[bool]]:
            async def check() -> bool:
                request = health_pb2.HealthCheckRequest(service="repcenter.v1.Items")
                return bool((await health.Check(request)).status == status)

            return check

        await until(says(serving.SERVING))
        await redis.config_set("appendonly", "no")
        try:
            await until(says(serving.NOT_SERVING))
        finally:
            await redis.config_set("appendonly", "yes")
        await until(says(serving.SERVING))


async def test_one_port_has_one_door(
    door: RunningDoor, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    for name, port in (("http_port", door.http_url), ("grpc_port", door.grpc_target)):
        taken = encoder_settings.model_copy(update={name: int(port.rpartition(":")[2])})
        with pytest.raises(Exception, match=r"(?i)listen|bind"):
            async with open_door(taken, settings):
                await asyncio.sleep(0)


async def test_calls_are_bounded_in_number(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    """Open health watches count as calls: 64 of them beside max_in_flight, and no more."""
    one = encoder_settings.model_copy(update={"max_in_flight": 1})
    async with (
        open_door(one, settings) as door,
        grpc.aio.insecure_channel(door.grpc_target) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(65)]
        for watch in watches:
            await watch.read()
        stub: Any = pb_grpc.ItemsStub(channel)  # type: ignore[no-untyped-call]
        error = await refused(stub.Push(push("a", text={"title": "x"})))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watches:
            watch.cancel()

        async def accepted() -> bool:
            try:
                await stub.Push(push("a", text={"title": "x"}))
            except grpc.aio.AioRpcError:
                return False
            return True

        await until(accepted)
