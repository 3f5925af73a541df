"""The push stream in several partitions: an item in one of them, counters of their own, payloads beside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.errors import Conflict, Overloaded
from contracts.items import Item
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.acceptor import INLINE_BYTES
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Backlog, Ingest
from realtime_infer.partitions import Partitions
from realtime_infer.push_entry import decode_entry
from realtime_infer.push_queue import PushQueue
from realtime_infer.push_status import PushState
from realtime_infer.sequences import Sequences
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import PARTITIONS, Partition
from tests.encoder_bundle import picture
from tests.param_server.samples import make_window
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import ended, working

COUNT = 4
POISON = b"\x89PNG\r\n\x1a\n not a picture" * 400
ALL = [Partition(number) for number in range(COUNT)]


@pytest_asyncio.fixture
async def redis(redis: Redis) -> Redis:
    await redis.set(PARTITIONS, COUNT)
    return redis


def titled(item_id: str) -> Item:
    return Item(item_id, {"title": "Heat"})


def ids_of(partition: Partition, count: int) -> list[str]:
    """Ids that lie in one partition."""
    found = (str(n) for n in range(100_000) if Partition.of(str(n).encode(), COUNT) == partition)
    return [item_id for item_id, _ in zip(found, range(count), strict=False)]


async def sizes(redis: Redis) -> list[int]:
    return [await redis.xlen(keys.pushes) for keys in ALL]


async def test_the_number_of_partitions_is_said_once(redis: Redis) -> None:
    assert await Partitions(redis, None).all() == tuple(ALL)
    assert await Partitions(redis, COUNT).all() == tuple(ALL)
    with pytest.raises(Conflict, match="has 4 partitions, this process expects 5"):
        await Partitions(redis, 5).all()
    known = Partitions(redis, None)
    await known.all()
    await redis.delete(PARTITIONS)
    assert len(await Partitions(redis, 2).all()) == 2
    with pytest.raises(Conflict, match="has 2 partitions, this process expects 4"):
        await known.check()
    await redis.delete(PARTITIONS)
    await known.check()  # an emptied server is told again
    assert await redis.get(PARTITIONS) == b"4"


async def test_items_spread_and_each_stays_in_one_in_order(redis: Redis, ingest: Ingest) -> None:
    receipts = [await ingest.push(titled(str(n % 40))) for n in range(80)]
    for keys in ALL:
        lying = [decode_entry(fields) for _, fields in await entries(redis, keys.pushes)]
        assert 10 <= len(lying) <= 30
        assert {Partition.of(entry.item_id.encode(), COUNT) for entry in lying} == {keys}
        assert [entry.sequence for entry in lying] == list(range(1, len(lying) + 1))
    assert all(receipts[n].sequence < receipts[n + 40].sequence for n in range(40))
    backlog = await ingest.backlog()
    assert backlog.entries == 80
    assert 0 < backlog.age_s < 60


async def test_a_batch_takes_from_all_and_no_more_than_its_size(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings
) -> None:
    """What came beyond is the next batch, at once."""
    for n in range(10):
        await ingest.push(titled(str(n)))
    queue = PushQueue(redis, encoder_settings)
    await queue.open()
    first = await queue.read(2)
    assert len(first) == 2
    assert len({delivery.partition for delivery in first}) == 2
    rest = [delivery for _ in range(4) for delivery in await queue.read(2)]
    assert {d.entry_id for d in first + rest} == {i for k in ALL for i, _ in await entries(redis, k.pushes)}
    assert queue.held(2) == []


async def test_a_batch_is_bounded_by_bytes(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings
) -> None:
    for item_id in ids_of(ALL[0], 4):
        await ingest.push(Item(item_id, image=b"x" * 10_000))
    queue = PushQueue(redis, encoder_settings.model_copy(update={"batch_bytes": 25_000}))
    await queue.open()
    assert [len(await queue.read(4)) for _ in range(2)] == [2, 2]
    tiny = PushQueue(redis, encoder_settings.model_copy(update={"batch_bytes": 1, "consumer": "tiny"}))
    await ingest.push(Item("large", image=b"x" * 10_000))
    assert [d.payload_bytes > 10_000 for d in await tiny.read(4)] == [True]


async def test_a_large_payload_lies_beside_its_entry_until_it_is_settled(
    redis: Redis,
    ingest: Ingest,
    store: Store,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    good = Item("good", {"title": "x" * 2 * INLINE_BYTES}, image=picture((200, 20, 20)))
    poison = Item("poison", image=POISON)
    for item in (good, poison, titled("small")):
        await ingest.push(item)
    for keys in ALL:
        for entry_id, fields in await entries(redis, keys.pushes):
            assert (b"p" in fields) == (fields[b"i"] == b"small")
            assert sum(map(len, fields.values())) < INLINE_BYTES
            if b"n" in fields:
                assert await redis.hstrlen(keys.staged.decode(), entry_id.decode()) == int(fields[b"n"])
    assert (await ingest.backlog()).payload_bytes > len(POISON) + 2 * INLINE_BYTES
    async with working(encoder_settings, settings):
        statuses = await ended(ingest, ["good", "poison", "small"])
    assert [s.state for s in statuses] == [PushState.SCOREABLE, PushState.DEAD, PushState.SCOREABLE]
    assert await ingest.backlog() == Backlog(0, 0)
    assert not any([await redis.exists(keys.staged) for keys in ALL])
    letters = Partition.of(b"poison", COUNT)
    ((letter_id, letter),) = await entries(redis, letters.dead)
    assert b"p" not in letter
    found: Any = redis.hgetall(letters.dead_staged.decode())
    ((of, payload),) = (await found).items()
    assert of == letter_id
    assert decode_entry({**letter, b"p": payload}).item == poison
    assert int(await redis.get(letters.dead_bytes) or 0) == len(payload) == int(letter[b"n"])


async def test_dead_letters_are_bounded_by_count_and_bytes_and_the_newest_stays(
    redis: Redis, ingest: Ingest, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    many, large = ids_of(ALL[1], 5), ids_of(ALL[2], 3)
    for item_id in many:
        await ingest.push(Item(item_id, image=b"poison"))
    for item_id in large:
        await ingest.push(Item(item_id, image=POISON))
    bounds = {"max_dead_letters": 3 * COUNT, "max_dead_bytes": len(POISON) * COUNT}
    async with working(encoder_settings.model_copy(update=bounds), settings) as running:
        await ended(ingest, [*many, *large])
        trimmed = running.worker.metrics.trimmed._value.get()
    for keys, kept in ((ALL[1], many[-3:]), (ALL[2], large[-1:])):
        lying = await entries(redis, keys.dead)
        assert [letter[b"i"].decode() for _, letter in lying] == kept
        assert await redis.hlen(keys.dead_staged.decode()) == len(kept)
        assert int(await redis.get(keys.dead_bytes) or 0) == sum(int(letter[b"n"]) for _, letter in lying)
    assert trimmed == 4


async def test_each_partition_has_its_share_of_the_backlog(
    redis: Redis, encoder_settings: EncoderSettings
) -> None:
    bounds = {"max_backlog": 2 * COUNT, "max_backlog_bytes": COUNT * 10_000}
    ingest = Ingest(redis, encoder_settings.model_copy(update=bounds))
    first, second, third = ids_of(ALL[0], 3)
    await ingest.push(titled(first))
    await ingest.push(titled(second))
    with pytest.raises(Overloaded, match=r"2 pushes of .* in partition 0"):
        await ingest.push(titled(third))
    large, more = ids_of(ALL[1], 2)
    await ingest.push(Item(large, image=b"x" * 20_000))  # however large: the partition was empty
    with pytest.raises(Overloaded, match="in partition 1"):
        await ingest.push(titled(more))
    assert await sizes(redis) == [2, 1, 0, 0]


async def test_a_watermark_is_above_all_before_and_below_all_that_follow(
    redis: Redis, ingest: Ingest
) -> None:
    """While others push: every push is before it, after it, or beyond it already."""
    before = [await ingest.push(titled(str(n))) for n in range(60)]
    concurrent = asyncio.gather(*(ingest.push(titled(str(n))) for n in range(60)))
    mark = await ingest.watermark()
    after = [await ingest.push(titled(str(n))) for n in range(60)]
    assert max(r.sequence for r in before) < mark < min(r.sequence for r in after)
    assert mark not in [r.sequence for r in await concurrent]
    for keys in ALL:
        sequences = [int(fields[b"s"]) for _, fields in await entries(redis, keys.pushes)]
        assert sequences == sorted(set(sequences))
    assert await ingest.watermark(at_least=1_000_000) == 1_000_001


async def test_a_partition_that_counts_behind_another_is_left_alone(
    redis: Redis, ingest: Ingest, store: Store, encoder: Encoder
) -> None:
    """Until the table holds a number that none of them gave, or one has lost its count."""
    sequences = Sequences(ingest, redis, store)
    await sequences.catch_up()
    ahead = ids_of(ALL[0], 1)[0]
    for _ in range(5):
        newest = await ingest.push(titled(ahead))
        await ingest.push(titled(ids_of(ALL[1], 1)[0]))
    await ingest.push(titled(ids_of(ALL[2], 1)[0]))
    await store.commit_window(make_window(encoder.space, [ahead], [newest.sequence]))
    await sequences.catch_up()
    assert list((await ingest.counters()).values()) == [5, 5, 1, 0]
    assert [await redis.llen(keys.gaps.decode()) for keys in ALL] == [1] * 4
    await redis.delete(ALL[0].sequence, ALL[0].gaps)  # its node was lost
    await ingest.push(titled(ahead))
    await sequences.catch_up()
    assert list((await ingest.counters()).values()) == [5, 5, 1, 0]
    assert await redis.lrange(ALL[0].gaps.decode(), 0, -1) == [b"1 5"]
    await store.commit_window(make_window(encoder.space, ["loaded by hand"], [900]))
    await sequences.catch_up()
    assert list((await ingest.counters()).values()) == [900] * 4


async def test_a_push_that_lost_to_its_own_lost_count_is_dead_in_its_partition(
    redis: Redis,
    ingest: Ingest,
    store: Store,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """A count that went back without being lost, as after a failover: no gap told of it before."""
    victim, other = ids_of(ALL[0], 2)
    ahead = ids_of(ALL[1], 1)[0]
    await ingest.watermark(at_least=10)
    async with working(encoder_settings, settings):
        for _ in range(3):
            await ingest.push(titled(victim))
            await ingest.push(titled(ahead))
        await ended(ingest, [victim, ahead])
        await redis.decr(ALL[0].sequence, 2)
        await ingest.push(titled(victim))
        (status,) = await ended(ingest, [victim])
        assert status.state is PushState.DEAD
        assert "never gave" in status.reason
        for item_id in (victim, other):
            await ingest.push(titled(item_id))
        statuses = await ended(ingest, [victim, other])
    assert [s.state for s in statuses] == [PushState.SCOREABLE] * 2


async def test_two_workers_share_all_partitions(
    redis: Redis,
    ingest: Ingest,
    store: Store,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    ids = [str(n) for n in range(60)]
    small = encoder_settings.model_copy(update={"batch_size": 4})
    async with working(small, settings), working(small.model_copy(update={"consumer": "worker-2"}), settings):
        for item_id in ids * 2:
            receipt = await ingest.push(titled(item_id))
        statuses = await ended(ingest, ids)
    assert {s.state for s in statuses} == {PushState.SCOREABLE}
    stored = await store.sequences(encoder.space, ids)
    assert stored.tolist() == [s.sequence for s in statuses]
    assert receipt.sequence == stored[-1]
