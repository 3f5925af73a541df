"""Dead letters: found, shown whole, pushed again without overwriting anything newer, forgotten."""

from __future__ import annotations

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.errors import Conflict, InvalidInput, NotFound, Overloaded
from contracts.items import Item
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.dead_letters import DeadLetters
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Backlog, Ingest
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import PARTITIONS, Partition
from tests.param_server.samples import make_window
from tests.realtime_infer.workers import ended, working

COUNT = 3
POISON = b"\x89PNG\r\n\x1a\n not a picture" * 400


@pytest_asyncio.fixture
async def redis(redis: Redis) -> Redis:
    await redis.set(PARTITIONS, COUNT)
    return redis


@pytest.fixture
def letters(redis: Redis, ingest: Ingest, store: Store) -> DeadLetters:
    return DeadLetters(redis, ingest, store)


@pytest_asyncio.fixture
async def dead(
    redis: Redis,
    ingest: Ingest,
    store: Store,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> list[Item]:
    """Six items in three partitions whose pushes have died; and an entry that was no push."""
    items = [Item(f"dead-{n}", {"title": f"film {n}"}, {"year": 1995.0}, POISON) for n in range(5)]
    items.append(Item("[bold]\0", {"subtitle": "no field of the template"}))
    async with working(encoder_settings, settings):
        for item in items:
            await ingest.push(item)
        await redis.xadd(Partition(1).pushes, {"unknown": "fields"})
        await ended(ingest, [item.item_id for item in items])
    return items


async def bytes_of(redis: Redis) -> list[int]:
    return [int(await redis.get(Partition(n).dead_bytes) or 0) for n in range(COUNT)]


async def test_letters_are_listed_newest_first_and_by_filter(letters: DeadLetters, dead: list[Item]) -> None:
    found = await letters.list()
    assert sorted(letter.item_id or "" for letter in found) == sorted(["", *(i.item_id for i in dead)])
    assert [letter.died_ms for letter in found] == sorted((x.died_ms for x in found), reverse=True)
    assert len(await letters.list(limit=2)) == 2
    assert [x.item_id for x in await letters.list(item_ids=["dead-3", "nobody"])] == ["dead-3"]
    assert {x.code for x in await letters.list(code="invalid")} == {"invalid"}
    assert await letters.list(code="internal") == []


async def test_a_letter_has_all_that_was_pushed(letters: DeadLetters, dead: list[Item]) -> None:
    (found,) = await letters.list(item_ids=["dead-0"])
    letter, entry = await letters.get(found.name)
    assert letter == found
    assert "not a readable picture" in letter.reason
    assert letter.payload_bytes > len(POISON)
    assert entry is not None
    assert (entry.item, entry.sequence) == (dead[0], letter.sequence)
    (foreign,) = [x for x in await letters.list() if x.item_id is None]
    assert (await letters.get(foreign.name))[1] is None
    with pytest.raises(InvalidInput, match="is no push"):
        await letters.replay(foreign.name)
    for name in ("0:1-1", "7:1-1"):
        for attempt in (letters.get(name), letters.replay(name), letters.drop(name)):
            with pytest.raises(NotFound, match="dead letter"):
                await attempt
    for name in ("", "1", "x:1-1", "1:1", "1:1-1 ", "\u0661:1-1"):
        with pytest.raises(InvalidInput, match="must be <partition>"):
            await letters.get(name)


async def test_a_replayed_letter_is_a_new_push_of_the_same_content(
    redis: Redis,
    ingest: Ingest,
    letters: DeadLetters,
    dead: list[Item],
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    (found,) = await letters.list(item_ids=["dead-0"])
    receipt = await letters.replay(found.name)
    assert found.sequence is not None
    assert receipt.sequence > found.sequence
    status = await ingest.status("dead-0")
    assert (status.state, status.sequence, status.reason) == (PushState.QUEUED, receipt.sequence, "")
    assert await letters.list(item_ids=["dead-0"]) == []
    assert (await ingest.backlog()).payload_bytes == found.payload_bytes
    with pytest.raises(NotFound):
        await letters.replay(found.name)
    async with working(encoder_settings, settings):
        assert [s.state for s in await ended(ingest, ["dead-0"])] == [
            PushState.DEAD
        ]  # the content is the same
    (again,) = await letters.list(item_ids=["dead-0"])
    assert again.sequence == receipt.sequence
    entry = (await letters.get(again.name))[1]
    assert entry is not None
    assert entry.item == dead[0]
    assert sum(await bytes_of(redis)) == sum(x.payload_bytes for x in await letters.list())


async def test_nothing_newer_is_overwritten_unless_forced(
    ingest: Ingest,
    store: Store,
    encoder: Encoder,
    letters: DeadLetters,
    dead: list[Item],
) -> None:
    by_item = {letter.item_id: letter for letter in await letters.list()}
    await ingest.push(Item("dead-0", {"title": "newer"}))
    await ingest.delete("dead-1")
    mark = await ingest.watermark()
    await store.commit_window(make_window(encoder.space, ["dead-2"], [mark]))
    for item_id, why in (("dead-0", "was pushed"), ("dead-1", "was pushed"), ("dead-2", "is in space")):
        with pytest.raises(Conflict, match=why):
            await letters.replay(by_item[item_id].name)
    assert len(await letters.list()) == len(by_item)
    receipt = await letters.replay(by_item["dead-2"].name, force=True)
    assert receipt.sequence > mark
    assert (await letters.replay(by_item["dead-0"].name, force=True)).sequence > 0


async def test_of_two_letters_of_an_item_only_the_newer_is_replayed(
    redis: Redis,
    ingest: Ingest,
    letters: DeadLetters,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
    store: Store,
) -> None:
    async with working(encoder_settings, settings):
        for _ in range(2):
            await ingest.push(Item("a", image=POISON))
            await ended(ingest, ["a"])
    newer, older = await letters.list()
    with pytest.raises(Conflict):
        await letters.replay(older.name)
    await letters.replay(newer.name)
    with pytest.raises(Conflict):
        await letters.replay(older.name)


async def test_a_full_backlog_refuses_a_replay_and_keeps_the_letter(
    redis: Redis, ingest: Ingest, store: Store, dead: list[Item], encoder_settings: EncoderSettings
) -> None:
    await ingest.push(dead[0])
    full = Ingest(redis, encoder_settings.model_copy(update={"max_backlog": 1}))
    letters = DeadLetters(redis, full, store)
    (found,) = await letters.list(item_ids=["dead-0"])
    with pytest.raises(Overloaded):
        await letters.replay(found.name, force=True)
    assert await letters.list(item_ids=["dead-0"]) == [found]


async def test_dropping_forgets_the_payload_too(redis: Redis, letters: DeadLetters, dead: list[Item]) -> None:
    for letter in await letters.list():
        await letters.drop(letter.name)
    assert await letters.list() == []
    assert await bytes_of(redis) == [0] * COUNT
    assert not any([await redis.exists(Partition(n).dead_staged) for n in range(COUNT)])


async def test_nothing_waits_where_nothing_died(ingest: Ingest, letters: DeadLetters) -> None:
    assert await letters.list() == []
    assert await ingest.backlog() == Backlog(0, 0)
