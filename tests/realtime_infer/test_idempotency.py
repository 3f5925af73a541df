"""Idempotency keys: the same push twice is one, whichever door and connection it comes by."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from redis.asyncio import Redis

from contracts.errors import Conflict, InvalidInput, Overloaded, TooLarge
from contracts.items import Item
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from realtime_infer.app import RunningDoor
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import KEYS


def titled(item_id: str, title: str = "Heat") -> Item:
    return Item(item_id, {"title": title})


async def test_the_same_key_gives_the_same_receipt(redis: Redis, ingest: Ingest) -> None:
    first = await ingest.push(titled("a"), "k")
    newer = await ingest.push(titled("a", "Ronin"), "k2")
    again = await ingest.push(titled("a"), "k")
    assert (again.sequence, again.replayed, first.replayed) == (first.sequence, True, False)
    assert newer.sequence > first.sequence
    assert len(await entries(redis, KEYS.pushes)) == 2
    assert (await ingest.status("a")).sequence == newer.sequence  # replaying moved nothing


async def test_other_content_is_a_conflict_that_names_the_first(ingest: Ingest) -> None:
    first = await ingest.push(titled("a"), "k")
    for attempt in (ingest.push(titled("a", "Ronin"), "k"), ingest.delete("a", "k")):
        with pytest.raises(Conflict, match=rf"'k' of item 'a' .* sequence {first.sequence}"):
            await attempt
    assert not (await ingest.push(titled("b", "Ronin"), "k")).replayed  # a key is of its item


async def test_at_once_one_of_them_is_accepted(redis: Redis, ingest: Ingest) -> None:
    receipts = await asyncio.gather(*(ingest.push(titled("a"), "k") for _ in range(20)))
    assert len({receipt.sequence for receipt in receipts}) == 1
    assert sum(receipt.replayed for receipt in receipts) == 19
    assert len(await entries(redis, KEYS.pushes)) == 1


async def test_a_refused_push_leaves_its_key_free_and_a_known_key_needs_no_room(
    redis: Redis, encoder_settings: EncoderSettings
) -> None:
    ingest = Ingest(redis, encoder_settings.model_copy(update={"max_backlog": 1}))
    first = await ingest.push(titled("a"), "k")
    with pytest.raises(Overloaded):
        await ingest.push(titled("b"), "k")
    assert (await ingest.push(titled("a"), "k")).sequence == first.sequence
    await redis.delete(KEYS.pushes)
    assert not (await ingest.push(titled("b"), "k")).replayed


async def test_keys_end_with_their_time_and_are_bounded_in_number(
    redis: Redis, encoder_settings: EncoderSettings
) -> None:
    brief = Ingest(redis, encoder_settings.model_copy(update={"idempotency_ttl_s": 0.001}))
    first = await brief.push(titled("a"), "k")
    await asyncio.sleep(0.005)
    again = await brief.push(titled("a"), "k")
    assert (again.sequence, again.replayed) == (first.sequence + 1, False)
    few = Ingest(redis, encoder_settings.model_copy(update={"max_idempotency_keys": 5}))
    for n in range(12):
        await few.push(titled("a"), str(n))
    assert await redis.hlen(KEYS.receipts.decode()) == await redis.llen(KEYS.receipt_end.decode()) == 5
    assert (await few.push(titled("a"), "11")).replayed
    assert not (await few.push(titled("a"), "6")).replayed


@pytest.mark.parametrize("key", ["", "x" * 257, "\ud800"])
async def test_unusable_keys_are_named(redis: Redis, ingest: Ingest, key: str) -> None:
    with pytest.raises((InvalidInput, TooLarge), match="idempotency_key"):
        await ingest.push(titled("a"), key)
    assert await entries(redis, KEYS.pushes) == []


async def test_over_http_and_grpc(redis: Redis, door: RunningDoor, http: httpx.AsyncClient) -> None:
    body = {"item_id": "a", "title": "x"}
    header = {"idempotency-key": "k"}
    first = (await http.post("/v1/items", json=body, headers=header)).json()
    again = await http.post("/v1/items", json={**body, "idempotency_key": "k"})
    assert again.status_code == 202
    assert again.json() == {**first, "replayed": True}
    other = await http.post("/v1/items", json={**body, "title": "y"}, headers=header)
    assert other.status_code == 409
    assert "sequence" in other.json()["detail"]
    both = await http.post("/v1/items", json={**body, "idempotency_key": "other"}, headers=header)
    assert both.status_code == 422
    gone = (await http.delete("/v1/items/a", headers={"idempotency-key": "d"})).json()
    async with grpc.aio.insecure_channel(door.grpc_target) as channel:
        stub: Any = pb_grpc.ItemsStub(channel)  # type: ignore[no-untyped-call]
        item = pb.Item(item_id="a", text={"title": "x"})
        receipt = await stub.Push(pb.PushRequest(item=item, idempotency_key="k"))
        assert (receipt.sequence, receipt.replayed) == (first["sequence"], True)
        receipt = await stub.Delete(pb.DeleteRequest(item_id="a", idempotency_key="d"))
        assert (receipt.sequence, receipt.replayed) == (gone["sequence"], True)
    assert len(await entries(redis, KEYS.pushes)) == 2
    assert "repcenter_push_replayed_total 3.0" in (await http.get("/metrics")).text
