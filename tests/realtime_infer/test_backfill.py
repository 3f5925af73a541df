from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.errors import Conflict, InvalidInput, RepcenterError, Unavailable
from contracts.guard import Guard, GuardLimits
from contracts.items import Item
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.backfill import BackfillReport, backfill
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from tests.contracts.pictures import jpeg_of_scans
from tests.encoder_bundle import picture
from tests.realtime_infer.workers import ended, windows, working

PICTURE = picture((100, 20, 20))


def catalogue(count: int = 25, title: str = "film") -> list[Item]:
    return [Item(f"i{n}", {"title": f"{title} {n}"}, {"year": 1900.0 + n}, PICTURE) for n in range(count)]


def breaking(items: list[Item], after: int) -> Iterator[Item]:
    yield from items[:after]
    raise OSError("the catalogue went away")


async def check_tables(store: Store, encoder: Encoder, root: Path, ids: list[str]) -> None:
    """Both tables hold these items with the same bytes."""
    stored = await store.fetch(encoder.space, None, ids)
    assert stored.found.all()
    offline_ids, offline = OfflineTable(str(root)).read(encoder.space)
    assert sorted(offline_ids) == sorted(ids)
    order = [offline_ids.index(item_id) for item_id in ids]
    assert offline[order].tobytes() == stored.records.tobytes()


async def test_a_catalogue_goes_into_both_tables_and_is_announced(
    redis: Redis, tmp_path: Path, encoder: Encoder
) -> None:
    items, store, seen = catalogue(), Store(redis), list[int]()
    report = await backfill(
        items, encoder, store, redis, str(tmp_path), batch_size=10, progress=lambda r: seen.append(r.items)
    )
    assert (report.items, report.committed, report.skipped, report.failed) == (25, 25, 0, 0)
    assert seen == [10, 20, 25]
    await check_tables(store, encoder, tmp_path, [item.item_id for item in items])
    sequences = await store.sequences(encoder.space, ["i0", "i24"])
    assert sequences.tolist() == [report.watermark] * 2
    announced = await windows(redis, encoder.space)
    assert [len(window.item_ids) for window in announced] == [10, 10, 5]
    live = encoder.records(encoder.encode(items[:10]), np.full(10, report.watermark, np.uint64))
    assert announced[0].records.tobytes() == live.tobytes()


async def test_an_interrupted_run_goes_on_with_its_own_watermark(
    redis: Redis, tmp_path: Path, encoder: Encoder, ingest: Ingest
) -> None:
    items, store, reports = catalogue(), Store(redis), list[BackfillReport]()
    with pytest.raises(OSError, match="went away"):
        await backfill(
            breaking(items, 23), encoder, store, redis, str(tmp_path), batch_size=10, progress=reports.append
        )
    await ingest.push(Item("between", {"title": "x"}))
    report = await backfill(items, encoder, store, redis, str(tmp_path), batch_size=10)
    assert report.watermark == reports[0].watermark
    assert (report.skipped, report.committed) == (20, 5)
    await check_tables(store, encoder, tmp_path, [item.item_id for item in items])
    again = await backfill(items, encoder, store, redis, str(tmp_path), batch_size=10)
    assert (again.skipped, again.committed) == (25, 0)


async def test_a_live_push_beats_the_backfill_in_either_order(
    redis: Redis,
    tmp_path: Path,
    encoder: Encoder,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """`i0` is pushed and committed in the middle of the run, before its own batch is written again; `i9`
    after its batch."""
    store = Store(redis)
    await store.create_space(encoder.space)
    async with working(encoder_settings, settings):

        def items() -> Iterator[Item]:
            yield from catalogue()[1:21]
            pushed.wait(20)
            yield catalogue()[0]

        pushed = threading.Event()
        run = asyncio.create_task(backfill(items(), encoder, store, redis, str(tmp_path), batch_size=10))
        while not (await store.sequences(encoder.space, ["i9"])).any():
            await asyncio.sleep(0.01)
        live = [await ingest.push(Item(i, {"title": "live"})) for i in ("i0", "i9")]
        await ended(ingest, ["i0", "i9"])
        pushed.set()
        report = await run
    assert (report.committed, report.superseded) == (20, 1)
    records = (await store.fetch(encoder.space, None, ["i0", "i9"])).records
    assert records["sequence"].tolist() == [receipt.sequence for receipt in live]


async def test_items_that_fail_are_reported_and_the_others_go_in(
    redis: Redis, tmp_path: Path, encoder: Encoder
) -> None:
    items = catalogue(12)
    items[3] = Item("i3", {"title": "x"}, image=b"poison")
    items[1] = Item("i0", {"title": "the id of its neighbour"})
    items[7] = Item("", {"title": "x"})
    report = await backfill(items, encoder, Store(redis), redis, str(tmp_path), batch_size=5)
    assert (report.items, report.committed, report.failed) == (12, 9, 3)
    assert [item_id for item_id, _ in report.failures] == ["i0", "i3", ""]
    reasons = [reason for _, reason in report.failures]
    assert "comes twice" in reasons[0]
    assert "not a readable picture" in reasons[1]
    assert "must not be empty" in reasons[2]
    good = [i for i in dict.fromkeys(item.item_id for item in items) if i not in ("i3", "")]
    await check_tables(Store(redis), encoder, tmp_path, good)


async def test_repeating_a_finished_run_takes_nothing_back(
    redis: Redis,
    tmp_path: Path,
    encoder: Encoder,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """Even in a batch that is encoded again because one of its items fails every time."""
    store, items = Store(redis), catalogue(10)
    items[3] = Item("i3", {"title": "x"}, image=b"poison")
    await backfill(items, encoder, store, redis, str(tmp_path), batch_size=5)
    async with working(encoder_settings, settings):
        live = await ingest.push(Item("i0", {"title": "live"}))
        await ended(ingest, ["i0"])
    again = await backfill(items, encoder, store, redis, str(tmp_path), batch_size=5)
    assert (again.skipped, again.committed, again.superseded, again.failed) == (5, 3, 1, 1)
    assert (await store.sequences(encoder.space, ["i0"])).tolist() == [live.sequence]


async def test_a_changed_catalogue_needs_a_new_run(redis: Redis, tmp_path: Path, encoder: Encoder) -> None:
    store = Store(redis)
    with pytest.raises(OSError, match="went away"):
        await backfill(breaking(catalogue(), 15), encoder, store, redis, str(tmp_path), batch_size=10)
    changed = catalogue(title="other")
    with pytest.raises(Conflict, match="batch 0 differs"):
        await backfill(changed, encoder, store, redis, str(tmp_path), batch_size=10)
    report = await backfill(changed, encoder, store, redis, str(tmp_path), batch_size=10, resume=False)
    assert report.committed == 25
    await check_tables(store, encoder, tmp_path, [item.item_id for item in changed])
    newest = catalogue(title="other")
    newest[0] = Item("i0", {"title": "newest"})
    last = await backfill(newest, encoder, store, redis, str(tmp_path), batch_size=10)
    assert (last.committed, last.skipped) == (10, 15)
    assert last.watermark > report.watermark
    await check_tables(store, encoder, tmp_path, [item.item_id for item in newest])


async def test_a_table_that_was_lost_is_filled_again(
    redis: Redis, tmp_path: Path, encoder: Encoder, ingest: Ingest
) -> None:
    """The ledger alone is not believed; and sequences do not start below what the offline table holds."""
    store, items = Store(redis), catalogue()
    first = await backfill(items, encoder, store, redis, str(tmp_path), batch_size=10)
    await redis.flushall()
    second = await backfill(items, encoder, store, redis, str(tmp_path), batch_size=10)
    assert (second.committed, second.skipped) == (25, 0)
    assert second.watermark > first.watermark
    assert (await store.sequences(encoder.space, ["i0"])).tolist() == [first.watermark]
    assert (await ingest.push(Item("i0", {"title": "live"}))).sequence > second.watermark
    await check_tables(store, encoder, tmp_path, [item.item_id for item in items])


async def test_an_empty_catalogue_and_a_silly_batch(redis: Redis, tmp_path: Path, encoder: Encoder) -> None:
    report = await backfill([], encoder, Store(redis), redis, str(tmp_path))
    assert (report.items, report.committed) == (0, 0)
    with pytest.raises(InvalidInput, match="batch_size"):
        await backfill([], encoder, Store(redis), redis, str(tmp_path), batch_size=0)


async def test_an_item_that_could_not_be_read_is_a_failure_of_that_item(
    redis: Redis, tmp_path: Path, encoder: Encoder
) -> None:
    items: list[Item | tuple[str, RepcenterError]] = [*catalogue(5)]
    items[2] = ("i2", Unavailable("its picture is gone"))
    report = await backfill(items, encoder, Store(redis), redis, str(tmp_path), batch_size=2)
    assert (report.items, report.committed, report.failed) == (5, 4, 1)
    assert report.failures == [("i2", "its picture is gone")]
    await check_tables(Store(redis), encoder, tmp_path, ["i0", "i1", "i3", "i4"])


async def test_pictures_are_fetched_and_decoded_as_a_worker_does_it(
    redis: Redis, tmp_path: Path, encoder: Encoder, encoder_settings: EncoderSettings
) -> None:
    """One that its decoder does not survive fails alone; a place says nothing of whether it may be read."""
    roots, offline = tmp_path / "pictures", str(tmp_path / "offline")
    roots.mkdir()
    (roots / "a.png").write_bytes(PICTURE)
    settings = encoder_settings.model_copy(update={"image_roots": [str(roots)], "decode_cpu_s": 0.2})
    items = [
        Item("place", {"title": "x"}, image_url=str(roots / "a.png")),
        Item("bytes", {"title": "x"}, image=PICTURE),
        Item("elsewhere", {"title": "x"}, image_url=str(tmp_path / "secret.png")),
        Item("slow", {"title": "x"}, image=jpeg_of_scans(90, 4_608)),
        Item("after", {"title": "y"}),
    ]
    report = await backfill(items, encoder, Store(redis), redis, offline, batch_size=2, settings=settings)
    assert (report.items, report.committed, report.failed) == (5, 3, 2)
    reasons = dict(report.failures)
    assert "image_url" in reasons["elsewhere"]
    assert "processor time" in reasons["slow"]
    fetched = await Store(redis).fetch(encoder.space, None, ["place", "bytes", "after"])
    assert fetched.found.all()
    assert fetched.records[0] == fetched.records[1]
    again = await backfill(items, encoder, Store(redis), redis, offline, batch_size=2, settings=settings)
    assert (again.skipped, again.committed, again.failed) == (3, 0, 2)


async def test_a_watermark_from_before_the_snapshot_loses_to_pushes_since(
    redis: Redis,
    tmp_path: Path,
    encoder: Encoder,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    store = Store(redis)
    watermark = await ingest.watermark()
    async with working(encoder_settings, settings):
        live = await ingest.push(Item("i0", {"title": "while the snapshot was read"}))
        await ended(ingest, ["i0"])
    report = await backfill(catalogue(3), encoder, store, redis, str(tmp_path), watermark=watermark)
    assert (report.watermark, report.committed, report.superseded) == (watermark, 2, 1)
    stored = await store.sequences(encoder.space, ["i0", "i1"])
    assert stored.tolist() == [live.sequence, watermark]
    with pytest.raises(InvalidInput, match="watermark: must be above"):
        await backfill(catalogue(3), encoder, store, redis, str(tmp_path), watermark=watermark)


async def test_flagged_rows_are_counted(redis: Redis, tmp_path: Path, bundle: Bundle) -> None:
    encoder = Encoder.open(str(bundle.path), bundle.digest)
    encoder.guard = Guard({}, GuardLimits(cosine_error=0.0))
    store, items = Store(redis), [Item(f"i{n}", {"title": f"film {n}"}) for n in range(7)]
    report = await backfill(items, encoder, store, redis, str(tmp_path), batch_size=3)
    assert report.flagged == {"text": 7, "image": 0, "fused": 7}  # no item has a picture
    assert (await store.fetch(encoder.space, None, ["i0"])).records["guard"].tolist() == [0b101]


async def test_it_gives_way_to_pushes_that_are_worked_on(
    redis: Redis,
    tmp_path: Path,
    encoder: Encoder,
    ingest: Ingest,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """The pushes are done before its second batch; where no worker is there, it does not wait for one."""
    patient = encoder_settings.model_copy(update={"backfill_backlog": 0, "backfill_wait_s": 600.0})
    store, ids = Store(redis), [f"p{n}" for n in range(40)]
    left = list[int]()

    def items() -> Iterator[Item]:
        for n, item in enumerate(catalogue(4)):
            if n == 2:
                pushed.wait(20)
            yield item

    async def push() -> None:
        await store.create_space(encoder.space)
        while not (await store.sequences(encoder.space, ["i0"])).any():
            await asyncio.sleep(0.01)
        for item_id in ids:
            await ingest.push(Item(item_id, {"title": "x"}, image=PICTURE))
        pushed.set()

    pushed = threading.Event()
    async with working(encoder_settings, settings):
        pushing = asyncio.create_task(push())
        report = await backfill(items(), encoder, store, redis, str(tmp_path), batch_size=2, settings=patient)
        left.append((await ingest.backlog()).entries)
        await pushing
    assert left == [0]
    assert report.committed == 4
    await ingest.push(Item("waits", {"title": "x"}))
    async with asyncio.timeout(20):
        again = await backfill(
            catalogue(4), encoder, store, redis, str(tmp_path), batch_size=4, resume=False, settings=patient
        )
    assert again.committed == 4
    assert again.waited_s > 0
