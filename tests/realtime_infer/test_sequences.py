"""The counter of the stream against the table's high water: two servers, one of which is lost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest_asyncio
from redis.asyncio import Redis

from contracts.items import Item
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import open_door
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.sequences import Sequences
from realtime_infer.settings import EncoderSettings
from tests.param_server.samples import make_deletes, make_window
from tests.realtime_infer.workers import KEYS, dead_letters, ended, until, windows, working


@dataclass(frozen=True)
class Pair:
    """A filled table (item `a` at 900, the deleted `gone` at 901) and an empty stream server."""

    table_server: EmbeddedServer
    settings: StoreSettings
    stream: Redis
    store: Store
    ingest: Ingest


@pytest_asyncio.fixture
async def pair(
    tmp_path: Path, redis: Redis, server: EmbeddedServer, encoder: Encoder, encoder_settings: EncoderSettings
) -> AsyncIterator[Pair]:
    with EmbeddedServer.start(tmp_path / "table") as table_server:
        settings = StoreSettings(redis_url=table_server.url, stream_url=server.url, socket_timeout_s=1.0)
        table = connect(table_server.url, settings)
        store = Store(table)
        await store.create_space(encoder.space)
        await store.commit_window(make_window(encoder.space, ["a"], [900]))
        await store.commit_window(make_deletes(encoder.space, ["gone"], [901]))
        yield Pair(table_server, settings, redis, store, Ingest(redis, encoder_settings))
        await table.aclose()


def titled(item_id: str) -> Item:
    return Item(item_id, {"title": "new"})


async def test_a_door_over_a_filled_table_counts_on_from_it(
    pair: Pair, encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    async with (
        open_door(encoder_settings, pair.settings) as door,
        httpx.AsyncClient(base_url=door.http_url, timeout=15) as client,
    ):
        answer = await client.post("/v1/items", json={"item_id": "a", "title": "new"})
    assert answer.json()["sequence"] > 901
    async with working(encoder_settings.model_copy(update={"http_port": 0}), pair.settings):
        (status,) = await ended(pair.ingest, ["a"])
    assert status.state is PushState.SCOREABLE
    assert (await pair.store.sequences(encoder.space, ["a"])).tolist() == [answer.json()["sequence"]]


async def test_a_worker_raises_the_counter_before_it_works(
    pair: Pair, encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    async with working(encoder_settings, pair.settings):

        async def raised() -> bool:
            return int(await pair.stream.get(KEYS.sequence) or 0) >= 901

        await until(raised)
        await pair.ingest.push(titled("a"))
        (status,) = await ended(pair.ingest, ["a"])
    assert status.state is PushState.SCOREABLE
    assert (await pair.store.sequences(encoder.space, ["a"])).tolist() == [status.sequence]


async def test_pushes_of_a_counter_that_started_again_are_never_called_done(
    pair: Pair, encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    """The stream is emptied under a running worker. In one-entry batches: the second of them comes after the
    counter was raised already. A new item loses to nobody and goes in."""
    single = encoder_settings.model_copy(update={"batch_size": 1, "reclaim_idle_ms": 600_000})
    async with working(single, pair.settings):
        await pair.ingest.push(titled("first"))
        await ended(pair.ingest, ["first"])
        pipeline = pair.stream.pipeline()  # pushes with the numbers of a fresh server, in one step
        pipeline.delete(KEYS.sequence, KEYS.gaps)
        await pipeline.execute()
        await pair.ingest.push(titled("new"))
        await pair.ingest.push(titled("a"))
        await pair.ingest.delete("gone")
        fresh, pushed, deleted = await ended(pair.ingest, ["new", "a", "gone"])
        assert fresh.state is PushState.SCOREABLE
        again = await pair.ingest.push(titled("a"))
        assert again.sequence > 901
        (last,) = await ended(pair.ingest, ["a"])
    assert (pushed.state, pushed.sequence) == (PushState.DEAD, 2)
    assert "sequence 2 lost to 900 of the table" in pushed.reason
    assert last.state is PushState.SCOREABLE
    assert (await pair.store.sequences(encoder.space, ["a"])).tolist() == [again.sequence]
    letters = {letter[b"i"]: letter for letter in await dead_letters(pair.stream)}
    assert letters[b"a"][b"code"] == b"conflict"
    assert deleted.state is PushState.DEAD or deleted.sequence > 901
    assert {i for window in await windows(pair.stream, encoder.space) for i in window.item_ids} >= {
        "new",
        "a",
    }


async def test_entries_from_before_a_raise_are_found_by_its_gap(
    pair: Pair, encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    """A door raised the counter while low numbers waited; a push that lost to a later one is no victim."""
    for item_id in ("a", "new"):
        await pair.ingest.push(titled(item_id))
    await pair.ingest.delete("gone")
    await Sequences(pair.ingest, pair.stream, pair.store).catch_up()
    later = await pair.ingest.watermark()
    await pair.store.commit_window(make_window(encoder.space, ["new"], [later]))
    async with working(encoder_settings, pair.settings):
        states = [status.state for status in await ended(pair.ingest, ["a", "gone", "new"])]
    assert states == [PushState.DEAD, PushState.DEAD, PushState.SCOREABLE]
    assert sorted(letter[b"i"] for letter in await dead_letters(pair.stream)) == [b"a", b"gone"]
    assert (await pair.ingest.backlog()).entries == 0


async def test_a_counter_above_the_table_stays(pair: Pair) -> None:
    given = await pair.ingest.watermark(at_least=5_000)
    await Sequences(pair.ingest, pair.stream, pair.store).catch_up()
    assert (await pair.ingest.push(titled("b"))).sequence == given + 1
    assert await pair.stream.lrange(KEYS.gaps, 0, -1) == [b"5001 5001"]


async def test_an_outage_of_the_table_uses_up_no_deliveries(
    pair: Pair, encoder_settings: EncoderSettings
) -> None:
    """An abandoned entry becomes due while the table's server is gone: nobody claims it."""
    quick = encoder_settings.model_copy(update={"reclaim_idle_ms": 1_000})
    await pair.ingest.push(titled("b"))
    died = PushQueue(pair.stream, quick.model_copy(update={"consumer": "died"}))
    await died.open()
    (held,) = await died.read()
    async with working(quick, pair.settings):
        pair.table_server.kill()
        await asyncio.sleep(2.0)
        assert await died.abandoned(0) == [dataclasses.replace(held, fields={})]
