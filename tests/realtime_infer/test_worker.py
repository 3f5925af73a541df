"""What a worker makes of pushes and deletions, and which encoder it runs."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.codec import is_tombstone
from contracts.errors import BrokenBundle
from contracts.items import Item
from contracts.manifest import IdTable
from contracts.window import Window
from param_server.generations import Generations
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import open_worker
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Backlog, Ingest
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import ASCII_TOKENS, make_encoder_bundle, picture
from tests.param_server.samples import make_generation, make_id_rows, seal_ranker
from tests.realtime_infer.workers import KEYS, dead_letters, ended, pending, until, windows, working

GREEN = picture((20, 200, 20))
POISON = b"\x89PNG\r\n\x1a\n not a picture"


def titled(item_id: str, title: str = "Heat") -> Item:
    return Item(item_id, {"title": title})


async def test_a_push_becomes_a_record_a_window_and_a_status(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    item = Item("heat", {"title": "Heat"}, {"genres": "Crime|Drama", "year": 1995.0}, GREEN)
    async with working(encoder_settings, settings):
        receipt = await ingest.push(item)
        (status,) = await ended(ingest, ["heat"])
    assert (status.state, status.sequence) == (PushState.SCOREABLE, receipt.sequence)
    fetched = await store.fetch(encoder.space, None, ["heat"])
    assert fetched.found.all()
    expected = encoder.records(encoder.encode([item]), np.array([receipt.sequence], np.uint64))
    assert fetched.records.tobytes() == expected.tobytes()
    (window,) = await windows(redis, encoder.space)
    assert window.item_ids == ["heat"]
    assert window.records.tobytes() == expected.tobytes()
    assert await ingest.backlog() == Backlog(0, 0)
    assert 0 < await redis.ttl(KEYS.status(b"heat")) <= encoder_settings.push_status_ttl_s
    await ingest.push(item)
    assert await redis.ttl(KEYS.status(b"heat")) == -1, "a status must outlive its queued push"
    assert await pending(redis) == 0


async def test_an_idle_worker_does_not_wait_for_a_batch_to_fill(
    store: Store, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    patient = encoder_settings.model_copy(update={"window_ms": 10_000})
    async with working(patient, settings):
        for n in range(3):
            await ingest.push(titled(f"item {n}"))
            (status,) = await ended(ingest, [f"item {n}"], timeout_s=9.0)
            assert status.state == PushState.SCOREABLE


async def test_of_several_pushes_of_one_item_the_newest_good_one_stays(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """One batch; `half` has a good push and then a poison one: the good record stays, the status is dead."""
    await ingest.push(titled("twice", "old"))
    good = await ingest.push(titled("half", "good"))
    await ingest.push(Item("half", {"title": "bad"}, image=POISON))
    newest = await ingest.push(titled("twice", "new"))
    async with working(encoder_settings, settings):
        statuses = await ended(ingest, ["twice", "half"])
    assert [s.state.value for s in statuses] == ["scoreable", "dead"]
    records = (await store.fetch(encoder.space, None, ["twice", "half"])).records
    assert records["sequence"].tolist() == [newest.sequence, good.sequence]
    expected = encoder.records(encoder.encode([titled("twice", "new")]), records["sequence"][:1])
    assert records[:1].tobytes() == expected.tobytes()
    (window,) = await windows(redis, encoder.space)
    assert sorted(window.item_ids) == ["half", "twice"]


async def test_a_deletion_becomes_a_tombstone_and_a_later_push_revives(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    async with working(encoder_settings, settings):
        await ingest.push(titled("a"))
        await ended(ingest, ["a"])
        deletion = await ingest.delete("a")
        (status,) = await ended(ingest, ["a"])
        assert (status.state, status.sequence) == (PushState.DELETED, deletion.sequence)
        assert not (await store.fetch(encoder.space, None, ["a"])).found.any()
        assert (await store.sequences(encoder.space, ["a"])).tolist() == [deletion.sequence]
        last = (await windows(redis, encoder.space))[-1]
        assert last.item_ids == ["a"]
        assert is_tombstone(last.records).all()
        await ingest.push(titled("a", "again"))
        (status,) = await ended(ingest, ["a"])
        assert status.state is PushState.SCOREABLE
        assert (await store.fetch(encoder.space, None, ["a"])).found.all()


async def test_a_push_that_lost_to_a_newer_record_is_settled_and_not_announced(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    await ingest.push(titled("a", "old"))
    newer = np.array([await ingest.watermark()], np.uint64)
    window = Window(encoder.space, ["a"], encoder.records(encoder.encode([titled("a", "new")]), newer), 1)
    await store.commit_window(window)
    async with working(encoder_settings, settings):
        await ended(ingest, ["a"])
    assert (await store.fetch(encoder.space, None, ["a"])).records.tobytes() == window.records.tobytes()
    assert await windows(redis, encoder.space) == []
    assert (await ingest.backlog()).entries == 0


async def test_a_worker_follows_the_generation_of_its_scene(
    redis: Redis,
    tmp_path: Path,
    bundle: Bundle,
    encoder: Encoder,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """Not ready without a generation; a new one with another encoder is taken over while it runs."""
    second_bundle = make_encoder_bundle(tmp_path / "second", seed=1)
    second = Encoder.open(str(second_bundle.path))
    store, generations = Store(redis), Generations(redis)
    ids = []
    for number, (made, space) in enumerate([(bundle, encoder.space), (second_bundle, second.space)]):
        await store.create_space(space)
        table = IdTable(f"table-{number}", 2, 16, 3)
        await store.load_id_rows(table, ["x", "y", "z"], make_id_rows(3))
        await store.seal_id_table(table)
        ranker = seal_ranker(tmp_path / f"ranker-{number}", space, 3)
        generation = make_generation(ranker, space, table)
        ids.append(await generations.publish(dataclasses.replace(generation, encoder_uri=str(made.path))))
    from_scene = encoder_settings.model_copy(update={"encoder_uri": None})
    await ingest.push(titled("a"))
    async with open_worker(from_scene, settings) as running, httpx.AsyncClient() as client:
        url = running.http_url
        await asyncio.sleep(0.2)
        answer = await client.get(f"{url}/health/ready")
        assert answer.status_code == 503
        assert "no active generation" in answer.json()["detail"]
        assert (await ingest.status("a")).state is PushState.QUEUED
        await generations.activate("default", ids[0])
        await ended(ingest, ["a"])
        assert (await client.get(f"{url}/health/ready")).status_code == 200
        assert (await store.fetch(encoder.space, None, ["a"])).found.all()
        await generations.activate("default", ids[1])

        async def arrives_in_the_second_space() -> bool:
            await ingest.push(titled("b"))
            await ended(ingest, ["b"])
            return bool((await store.fetch(second.space, None, ["b"])).found.all())

        await until(arrives_in_the_second_space)
        metrics = (await client.get(f"{url}/metrics")).text
    assert 'repcenter_settled_total{code="",state="scoreable"}' in metrics
    assert "repcenter_worker_ready 1.0" in metrics
    assert "repcenter_rows_total " in metrics
    assert 'repcenter_rows_flagged_total{modality="fused"} 0.0' in metrics


async def test_an_encoder_that_breaks_stops_the_worker_and_loses_nothing(
    redis: Redis,
    tmp_path: Path,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """Its golden file vanishes, then a graph raises: nobody is blamed, the entries wait for another."""
    made = make_encoder_bundle(tmp_path / "fragile", known_tokens=ASCII_TOKENS)
    fragile = encoder_settings.model_copy(update={"encoder_uri": str(made.path)})

    async def work_until_it_breaks() -> None:
        async with working(fragile, settings) as running:
            made.file("golden.npz").unlink()
            await ingest.push(titled("a", "\u00e9"))
            await asyncio.wait({running.task}, timeout=20)
            assert running.task.done()
            assert not running.worker.ready

    with pytest.raises(BrokenBundle, match="golden"):
        await work_until_it_breaks()
    assert await dead_letters(redis) == []
    assert (await ingest.backlog()).entries == 1
    async with working(encoder_settings, settings):
        assert [s.state for s in await ended(ingest, ["a"], 10)] == [PushState.SCOREABLE]
