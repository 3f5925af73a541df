"""Content that did not change is not encoded again, and nothing that has to be written is skipped."""

from __future__ import annotations

import numpy as np
from redis.asyncio import Redis

from contracts.items import Item
from contracts.window import Window
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import RunningWorker
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import picture
from tests.realtime_infer.workers import KEYS, ended, windows, working

ITEM = Item("heat", {"title": "Heat"}, {"genres": "Crime", "year": 1995.0}, picture((20, 200, 20)))


def unchanged(running: RunningWorker) -> int:
    return int(running.worker.metrics.unchanged._value.get())


async def is_scoreable(store: Store, encoder: Encoder, ingest: Ingest, item: Item) -> None:
    """The record is this item's content under the newest sequence."""
    (status,) = await ended(ingest, [item.item_id])
    assert status.state is PushState.SCOREABLE
    fetched = await store.fetch(encoder.space, None, [item.item_id])
    assert fetched.found.all()
    expected = encoder.records(encoder.encode([item]), np.array([status.sequence], np.uint64))
    assert fetched.records.tobytes() == expected.tobytes()


async def test_the_same_again_moves_the_sequence_without_encoding(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    async with working(encoder_settings, settings) as running:
        for pushes in range(3):
            receipt = await ingest.push(ITEM)
            await is_scoreable(store, encoder, ingest, ITEM)
            assert (await store.sequences(encoder.space, ["heat"])).tolist() == [receipt.sequence]
            assert unchanged(running) == pushes
        announced = await windows(redis, encoder.space)
        assert [int(window.records["sequence"][0]) for window in announced] == [1, 2, 3]
        for changed in (
            Item("heat", {"title": "Heat!"}, ITEM.attributes, ITEM.image),
            Item("heat", ITEM.text, {"genres": "Drama", "year": 1995.0}, ITEM.image),
            Item("heat", ITEM.text, ITEM.attributes, picture((20, 20, 200))),
            Item("heat", ITEM.text, ITEM.attributes),
            ITEM,
        ):
            await ingest.push(changed)
            await is_scoreable(store, encoder, ingest, changed)
        assert unchanged(running) == 2


async def test_what_happened_to_the_record_in_between_is_never_missed(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    async with working(encoder_settings, settings) as running:
        await ingest.push(ITEM)
        await is_scoreable(store, encoder, ingest, ITEM)

        await ingest.delete("heat")
        await ended(ingest, ["heat"])
        await ingest.push(ITEM)  # after a deletion
        await is_scoreable(store, encoder, ingest, ITEM)

        mark = np.array([await ingest.watermark()], np.uint64)
        other = encoder.records(encoder.encode([Item("heat", {"title": "of the catalogue"})]), mark)
        await store.commit_window(Window(encoder.space, ["heat"], other, 1))
        await ingest.push(ITEM)  # after a backfill
        await is_scoreable(store, encoder, ingest, ITEM)

        for key in [key async for key in redis.scan_iter(b"rc2:[rm]:*")]:
            await redis.delete(key)
        await store.create_space(encoder.space)
        await ingest.push(ITEM)  # after the table was lost
        await is_scoreable(store, encoder, ingest, ITEM)
        assert unchanged(running) == 0


async def test_a_counter_that_began_again_cannot_pass_old_content_off_as_new(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """Sequence 1 is given twice, for two contents: the table keeps the first, and nothing is remembered."""
    async with working(encoder_settings, settings) as running:
        await ingest.push(Item("heat", {"title": "first life"}))
        await ended(ingest, ["heat"])
        await redis.delete(KEYS.sequence, KEYS.status(b"heat"))
        assert (await ingest.push(ITEM)).sequence == 1
        await ended(ingest, ["heat"])
        await ingest.push(ITEM)
        await is_scoreable(store, encoder, ingest, ITEM)
        assert unchanged(running) == 0


async def test_an_older_redelivery_of_the_same_content_takes_nothing_back(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """Three pushes in one batch, the same content around another: the last one's sequence stays."""
    await ingest.push(ITEM)
    await ingest.push(Item("heat", {"title": "between"}))
    newest = await ingest.push(ITEM)
    async with working(encoder_settings, settings):
        await is_scoreable(store, encoder, ingest, ITEM)
        assert (await store.sequences(encoder.space, ["heat"])).tolist() == [newest.sequence]
