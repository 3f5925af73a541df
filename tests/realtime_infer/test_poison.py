"""What cannot be encoded dies alone, with a reason."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis

from contracts.items import Item
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import ASCII_TOKENS, make_encoder_bundle
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import KEYS, dead_letters, ended, windows, working

POISON = b"\x89PNG\r\n\x1a\n not a picture"


def titled(item_id: str, title: str = "Heat") -> Item:
    return Item(item_id, {"title": title})


async def test_poison_is_dead_with_a_reason_and_neighbours_pass(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """All of them wait before the worker starts, so they share one batch."""
    await ingest.push(titled("before"))
    await ingest.push(Item("poison", {"title": "fine"}, image=POISON))
    await ingest.push(Item("untitled", {"subtitle": "no field of the template"}))
    await ingest.push(titled("after"))
    async with working(encoder_settings, settings):
        statuses = await ended(ingest, ["before", "poison", "untitled", "after"])
    assert [s.state.value for s in statuses] == ["scoreable", "dead", "dead", "scoreable"]
    assert "not a readable picture" in statuses[1].reason
    assert "no picture and no text" in statuses[2].reason
    letters = await dead_letters(redis)
    assert [letter[b"i"] for letter in letters] == [b"poison", b"untitled"]
    assert letters[0][b"code"] == b"invalid"
    assert letters[0][b"reason"].decode() == statuses[1].reason
    assert int(letters[0][b"n"]) > len(POISON)
    assert (await store.fetch(encoder.space, None, ["before", "poison", "after"])).found.tolist() == [
        True,
        False,
        True,
    ]


async def test_an_item_on_which_the_graph_itself_raises_dies_alone(
    redis: Redis,
    tmp_path: Path,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    fragile = make_encoder_bundle(tmp_path / "fragile", known_tokens=ASCII_TOKENS)
    ids = [str(i) for i in range(7)]
    for item_id in ids:
        await ingest.push(titled(item_id, "\u00e9" if item_id == "3" else "plain"))
    async with working(encoder_settings.model_copy(update={"encoder_uri": str(fragile.path)}), settings):
        statuses = await ended(ingest, ids)
    assert [s.item_id for s in statuses if s.state is PushState.DEAD] == ["3"]
    assert "the encoder failed on it" in statuses[3].reason


async def test_entries_that_are_no_pushes_are_dead_letters(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    await redis.xadd(KEYS.pushes, {"i": "future", "s": "1", "p": b"RP\x09\x01later version"})
    await redis.xadd(KEYS.pushes, {"unknown": "fields"})
    await ingest.push(titled("a"))
    async with working(encoder_settings, settings):
        await ended(ingest, ["a"])
        (status,) = await ended(ingest, ["future"])
    assert (status.state, status.sequence) == (PushState.DEAD, 1)
    assert "version 9" in status.reason
    assert [letter[b"code"] for letter in await dead_letters(redis)] == [b"unknown_version", b"invalid"]
    assert await redis.xlen(KEYS.pushes) == 0


async def test_streams_and_letters_are_bounded(
    redis: Redis, ingest: Ingest, encoder: Encoder, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    """Trimming of windows is approximate: whole nodes of 100 entries."""
    tight = encoder_settings.model_copy(update={"max_dead_letters": 1, "max_windows": 1, "batch_size": 1})
    for i in range(150):
        await ingest.push(Item(f"p{i}", image=POISON))
        await ingest.push(titled(f"g{i}"))
    async with working(tight, settings):
        await ended(ingest, ["p149", "g149"])
    assert [letter[b"i"] for letter in await dead_letters(redis)] == [b"p149"]
    assert 1 <= len(await windows(redis, encoder.space)) <= 100
    assert await entries(redis, KEYS.pushes) == []


async def test_an_entry_that_kills_its_workers_dies_alone(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    """Workers that died: consumers that took an entry and never settled it."""
    for item_id in ("a", "killer", "b"):
        await ingest.push(titled(item_id))
    died = PushQueue(redis, encoder_settings.model_copy(update={"consumer": "died"}))
    await died.open()
    batch = await died.read()
    killer = next(d for d in batch if d.fields[b"i"] == b"killer")
    for deliveries in range(2, encoder_settings.max_deliveries + 1):
        claimed = await died.claim(killer, 0)
        assert claimed is not None
        assert claimed.deliveries == deliveries
        killer = claimed
    async with working(encoder_settings, settings):
        statuses = await ended(ingest, ["a", "killer", "b"])
    assert [s.state.value for s in statuses] == ["scoreable", "dead", "scoreable"]
    assert "delivered 5 times" in statuses[1].reason
