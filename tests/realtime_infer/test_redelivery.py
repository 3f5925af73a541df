"""Batches of workers that died, stopped or share a stream: nothing is lost, nothing is done twice."""

from __future__ import annotations

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.items import Item
from contracts.window import Window
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.windows import Windows
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import picture
from tests.realtime_infer.workers import KEYS, ended, pending, until, windows, working

GREEN = picture((20, 200, 20))


def titled(item_id: str, title: str = "Heat") -> Item:
    return Item(item_id, {"title": title})


@pytest.mark.parametrize("crashed_after", ["read", "commit", "announce"])
async def test_a_redelivered_batch_changes_nothing_twice(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
    crashed_after: str,
) -> None:
    """Another consumer got the batch and died at each of the places where it could."""
    items = [titled(str(i)) for i in range(5)]
    receipts = [await ingest.push(item) for item in items]
    lost = PushQueue(redis, encoder_settings.model_copy(update={"consumer": "died"}))
    await lost.open()
    assert len(await lost.read()) == 5
    sequences = np.array([r.sequence for r in receipts], np.uint64)
    window = Window(
        encoder.space, [i.item_id for i in items], encoder.records(encoder.encode(items), sequences), 1
    )
    dying = Windows(store, redis, 100)
    if crashed_after != "read":
        await dying.commit(window)
    if crashed_after == "announce":
        await dying.announce(window)
    async with working(encoder_settings, settings):
        statuses = await ended(ingest, [item.item_id for item in items])
    assert {s.state for s in statuses} == {PushState.SCOREABLE}
    assert (await store.sequences(encoder.space, window.item_ids)).tolist() == sequences.tolist()
    stored = (await store.fetch(encoder.space, None, window.item_ids)).records
    announced = {
        (item_id, record.tobytes())
        for message in await windows(redis, encoder.space)
        for item_id, record in zip(message.item_ids, message.records, strict=True)
    }
    assert announced == {
        (item_id, record.tobytes()) for item_id, record in zip(window.item_ids, stored, strict=True)
    }
    assert await pending(redis) == 0
    assert (await ingest.backlog()).entries == 0


async def test_a_batch_in_hand_is_encoding_and_nobody_elses(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings
) -> None:
    await ingest.push(titled("a"))
    await ingest.push(titled("b"))
    mine = PushQueue(redis, encoder_settings)
    await mine.open()
    batch = await mine.read()
    newer = await ingest.push(titled("b", "newer"))
    await mine.encoding(batch)
    assert (await ingest.status("a")).state is PushState.ENCODING
    status = await ingest.status("b")
    assert (status.state, status.sequence) == (PushState.QUEUED, newer.sequence)
    other = PushQueue(redis, encoder_settings.model_copy(update={"consumer": "other"}))
    assert await other.abandoned(60_000) == []
    assert await other.claim(batch[0], 60_000) is None
    assert await other.abandoned(0, own=True) == []
    held = await mine.abandoned(0, own=True)
    assert [(d.entry_id, d.deliveries) for d in held] == [(d.entry_id, 1) for d in batch]


async def test_a_worker_with_the_name_of_a_dead_one_goes_on_at_once(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    patient = encoder_settings.model_copy(update={"reclaim_idle_ms": 600_000})
    await ingest.push(titled("a"))
    died = PushQueue(redis, patient)
    await died.open()
    await died.read()
    async with working(patient, settings):
        assert [s.state for s in await ended(ingest, ["a"], 5)] == [PushState.SCOREABLE]


async def test_two_workers_share_the_stream(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    ids = [str(i) for i in range(60)]
    small = encoder_settings.model_copy(update={"batch_size": 4})
    async with working(small, settings), working(small.model_copy(update={"consumer": "worker-2"}), settings):
        for item_id in ids:
            await ingest.push(titled(item_id))
        statuses = await ended(ingest, ids)
    assert {s.state for s in statuses} == {PushState.SCOREABLE}


async def test_a_lost_group_is_made_again(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with working(encoder_settings, settings):
        await redis.delete(KEYS.pushes)
        await ingest.push(titled("a"))
        assert [s.state for s in await ended(ingest, ["a"], 10)] == [PushState.SCOREABLE]


async def test_stopping_finishes_the_batch_in_hand(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    ids = [str(i) for i in range(200)]
    for item_id in ids:
        await ingest.push(Item(item_id, {"title": "x"}, image=GREEN))
    async with working(encoder_settings.model_copy(update={"batch_size": 16}), settings):

        async def begun() -> bool:
            return (await ingest.backlog()).entries < 200

        await until(begun)
    states = [(await ingest.status(item_id)).state for item_id in ids]
    assert set(states) <= {PushState.SCOREABLE, PushState.QUEUED}
    assert states.count(PushState.SCOREABLE) >= 16
    assert await pending(redis) == 0
