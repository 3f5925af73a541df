from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from contracts.errors import InvalidInput, NotFound, Overloaded, TooLarge, Unavailable
from contracts.images import MAX_IMAGE_BYTES
from contracts.items import Item
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from realtime_infer.app import open_door
from realtime_infer.ingest import Ingest
from realtime_infer.push_entry import decode_entry
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import Partition
from tests.contracts.hostile import BAD_IDS, ODD_IDS
from tests.realtime_infer.conftest import entries

KEYS = Partition()


def titled(item_id: str, title: str = "Heat") -> Item:
    return Item(item_id, {"title": title})


async def test_a_receipt_has_a_sequence_and_the_entry_lies_in_the_stream(
    redis: Redis, ingest: Ingest
) -> None:
    first, second = await ingest.push(titled("a")), await ingest.push(titled("b"))
    assert (first.item_id, second.item_id) == ("a", "b")
    assert second.sequence == first.sequence + 1
    lying = await entries(redis, KEYS.pushes)
    assert [decode_entry(fields).item for _, fields in lying] == [titled("a"), titled("b")]
    backlog = await ingest.backlog()
    assert backlog.entries == 2
    assert backlog.payload_bytes == sum(len(fields[b"p"]) for _, fields in lying)


async def test_the_status_is_of_the_newest_push(ingest: Ingest) -> None:
    with pytest.raises(NotFound, match="'a'"):
        await ingest.status("a")
    await ingest.push(titled("a"))
    newest = await ingest.delete("a")
    status = await ingest.status("a")
    assert (status.state, status.sequence, status.reason) == (PushState.QUEUED, newest.sequence, "")
    assert status.updated_ms > 1_600_000_000_000


async def test_waiting_ends_at_its_time(ingest: Ingest) -> None:
    await ingest.push(titled("a"))
    began = asyncio.get_running_loop().time()
    assert (await ingest.wait("a", 0.15)).state is PushState.QUEUED
    assert 0.14 <= asyncio.get_running_loop().time() - began < 1.0


@pytest.mark.parametrize("item_id", ODD_IDS)
async def test_odd_ids_are_ids(ingest: Ingest, item_id: str) -> None:
    receipt = await ingest.push(titled(item_id))
    assert (await ingest.status(item_id)).sequence == receipt.sequence


@pytest.mark.parametrize("item_id", BAD_IDS)
async def test_bad_ids_are_refused(ingest: Ingest, item_id: str) -> None:
    for attempt in (ingest.push(titled(item_id)), ingest.delete(item_id), ingest.status(item_id)):
        with pytest.raises((InvalidInput, TooLarge), match="item_id"):
            await attempt
    assert (await ingest.backlog()).entries == 0


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (Item("a"), "item"),
        (Item("a", {"title": "  \n"}), "item"),
        (Item("a", {"title": "x"}, image=b""), "image"),
        (Item("a", {"title": "x"}, image=b"x" * (MAX_IMAGE_BYTES + 1)), "image"),
        (Item("a", {"title": "\ud800"}), "text.title"),
        (Item("a", {"title": "x"}, {"year": float("nan")}), "attributes.year"),
    ],
)
async def test_unusable_items_are_refused_before_they_cost_anything(
    ingest: Ingest, item: Item, field: str
) -> None:
    with pytest.raises((InvalidInput, TooLarge)) as caught:
        await ingest.push(item)
    assert str(caught.value).startswith(f"{field}: ")
    assert (await ingest.backlog()).entries == 0


async def test_the_backlog_is_bounded_by_count(redis: Redis, encoder_settings: EncoderSettings) -> None:
    ingest = Ingest(redis, encoder_settings.model_copy(update={"max_backlog": 3, "retry_after_s": 2.5}))
    for i in range(3):
        await ingest.push(titled(str(i)))
    with pytest.raises(Overloaded, match="3 pushes") as caught:
        await ingest.push(titled("3"))
    assert caught.value.retry_after_s == 2.5
    with pytest.raises(NotFound):
        await ingest.status("3")
    assert (await ingest.backlog()).entries == 3


async def test_the_backlog_is_bounded_by_bytes(redis: Redis, encoder_settings: EncoderSettings) -> None:
    ingest = Ingest(redis, encoder_settings.model_copy(update={"max_backlog_bytes": 5_000}))
    await ingest.push(Item("a", image=b"x" * 3_000))
    with pytest.raises(Overloaded):
        await ingest.push(Item("b", image=b"x" * 3_000))
    await ingest.push(titled("c"))


async def test_too_many_at_once_are_refused(redis: Redis, encoder_settings: EncoderSettings) -> None:
    ingest = Ingest(redis, encoder_settings.model_copy(update={"max_in_flight": 2}))
    results = await asyncio.gather(*(ingest.push(titled(str(i))) for i in range(10)), return_exceptions=True)
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert len(refused) == 8
    assert (await ingest.backlog()).entries == 2


async def test_a_watermark_lies_between_what_was_and_what_comes(ingest: Ingest) -> None:
    before = (await ingest.push(titled("a"))).sequence
    watermark = await ingest.watermark()
    assert before < watermark < (await ingest.push(titled("a"))).sequence
    assert await ingest.watermark(at_least=1_000_000) == 1_000_001
    assert (await ingest.push(titled("a"))).sequence == 1_000_002


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_what_was_acknowledged_survives_kill_9(
    tmp_path: Path, encoder_settings: EncoderSettings, appendfsync: str
) -> None:
    """everysec waits for the disk by WAITAOF, on the connection of the push."""
    with EmbeddedServer.start(tmp_path, appendfsync=appendfsync) as server:  # type: ignore[arg-type]
        redis = connect_one(server.url, StoreSettings())
        ingest = Ingest(redis, encoder_settings.model_copy(update={"stream_partitions": 1}))
        assert await ingest.check() == {"always": "always", "everysec": "waitaof"}[appendfsync]
        receipts = await asyncio.gather(*(ingest.push(titled(str(i))) for i in range(20)))
        waits: Any = (await redis.info("commandstats")).get("cmdstat_waitaof", {"calls": 0})
        assert (waits["calls"] >= 1) == (appendfsync == "everysec")
        server.kill()
        await redis.aclose()
    with EmbeddedServer.start(tmp_path) as server:
        redis = connect_one(server.url, StoreSettings())
        lying = await entries(redis, KEYS.pushes)
        await redis.aclose()
    kept = {(entry.item_id, entry.sequence) for entry in (decode_entry(fields) for _, fields in lying)}
    assert kept == {(r.item_id, r.sequence) for r in receipts}


async def test_a_server_that_would_forget_is_refused(
    tmp_path: Path, encoder_settings: EncoderSettings
) -> None:
    with EmbeddedServer.start(tmp_path, extra_args=["--appendonly", "no"]) as server:
        redis = connect_one(server.url, StoreSettings())
        with pytest.raises(Unavailable, match="CONFIG SET appendonly yes"):
            await Ingest(redis, encoder_settings).push(titled("a"))
        assert await redis.xlen(KEYS.pushes) == 0
        await redis.aclose()


async def test_a_server_that_is_gone_is_said_so(tmp_path: Path, encoder_settings: EncoderSettings) -> None:
    redis = connect_one(f"unix://{tmp_path}/nobody.sock", StoreSettings(socket_timeout_s=0.2))
    with pytest.raises(Unavailable):
        await Ingest(redis, encoder_settings).push(titled("a"))
    await redis.aclose()


async def test_a_door_is_refused_where_the_tables_server_may_drop_rows(
    server: EmbeddedServer, encoder_settings: EncoderSettings, tmp_path: Path
) -> None:
    evicting = ("--maxmemory-policy", "allkeys-lfu")
    with EmbeddedServer.start(tmp_path, extra_args=evicting) as table:
        settings = StoreSettings(redis_url=table.url, stream_url=server.url)
        with pytest.raises(Unavailable, match="maxmemory-policy is allkeys-lfu"):
            async with open_door(encoder_settings, settings):
                raise AssertionError("the door opened")
