from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from contracts.items import Item
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from realtime_infer.ingest import Ingest
from realtime_infer.push_queue import PushQueue
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import GROUP
from tests.realtime_infer.workers import KEYS, pending, until


async def test_an_empty_stream_is_no_timeout(
    server: EmbeddedServer, redis: Redis, encoder_settings: EncoderSettings
) -> None:
    """However short the socket's timeout is, the server is asked to block for less."""
    impatient = connect_one(server.url, StoreSettings(socket_timeout_s=0.2))
    queue = PushQueue(impatient, encoder_settings)
    await queue.open()
    began = asyncio.get_running_loop().time()
    assert await queue.read() == []
    assert asyncio.get_running_loop().time() - began > 0.08
    await impatient.aclose()


async def test_a_window_may_be_longer_than_the_socket_waits(
    server: EmbeddedServer, redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings
) -> None:
    impatient = connect_one(server.url, StoreSettings(socket_timeout_s=0.2))
    queue = PushQueue(impatient, encoder_settings.model_copy(update={"window_ms": 500}))
    await queue.open()
    await ingest.push(Item("a", {"title": "x"}))
    reading = asyncio.create_task(queue.read())
    await asyncio.sleep(0.3)
    await ingest.push(Item("b", {"title": "x"}))
    assert [delivery.fields[b"i"] for delivery in await reading] == [b"a", b"b"]
    await impatient.aclose()


async def test_a_batch_in_hand_is_kept_where_filling_it_fails(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings
) -> None:
    """The group vanishes while the worker waits for more."""
    queue = PushQueue(redis, encoder_settings.model_copy(update={"window_ms": 10_000}))
    await queue.open()
    await ingest.push(Item("a", {"title": "x"}))
    reading = asyncio.create_task(queue.read())

    async def in_hand() -> bool:
        return await pending(redis) == 1

    await until(in_hand)
    await asyncio.sleep(0.02)
    await redis.xgroup_destroy(KEYS.pushes, GROUP)
    async with asyncio.timeout(3):
        assert [delivery.fields[b"i"] for delivery in await reading] == [b"a"]
