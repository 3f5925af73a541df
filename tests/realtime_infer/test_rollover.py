"""An encoder rollover: pushes go to the live and to the next space, so none is missing when that serves."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.errors import InvalidInput, NotFound, UnknownVersion
from contracts.items import Item
from contracts.manifest import IdTable
from param_server import keys
from param_server.generations import Generations
from param_server.rollover import Rollovers, parse_preparing
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState
from realtime_infer.roster import Roster
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import ASCII_TOKENS, make_encoder_bundle, picture
from tests.param_server.samples import make_generation, make_id_rows, seal_ranker
from tests.realtime_infer.workers import ended, until, windows, working

PICTURE = picture((20, 200, 20))


@dataclass(frozen=True)
class Next:
    """The next encoder; its space is there, empty."""

    bundle: Bundle
    encoder: Encoder


@pytest_asyncio.fixture
async def following(tmp_path: Path, store: Store) -> Next:
    bundle = make_encoder_bundle(tmp_path / "next", seed=1)
    encoder = Encoder.open(str(bundle.path))
    await store.create_space(encoder.space)
    return Next(bundle, encoder)


async def begin(redis: Redis, following: Next) -> None:
    space = following.encoder.space
    await Rollovers(redis).begin(space.id, str(following.bundle.path), following.bundle.digest, space.buckets)


async def prepares(redis: Redis, space_ids: list[str]) -> None:
    """Wait until the one worker says that it encodes for these spaces."""

    async def said() -> bool:
        return [list(worker.spaces) for worker in await Roster(redis).present()] == [space_ids]

    await until(said)


async def test_pushes_go_to_both_spaces_until_the_rollover_ends(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    following: Next,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    live, coming = encoder.space, following.encoder.space
    items = [Item(f"i{n}", {"title": f"film {n}"}, image=PICTURE) for n in range(5)]
    async with working(encoder_settings, settings):
        await prepares(redis, [live.id])
        await ingest.push(items[0])
        await ended(ingest, ["i0"])
        assert not (await store.fetch(coming, None, ["i0"])).found.any()
        await begin(redis, following)
        await prepares(redis, [live.id, coming.id])
        receipts = [await ingest.push(item) for item in items]
        receipts.append(await ingest.delete("i4"))
        await ended(ingest, [item.item_id for item in items])
        for one in (encoder, following.encoder):
            fetched = await store.fetch(one.space, None, [item.item_id for item in items])
            assert fetched.found.tolist() == [True] * 4 + [False]
            expected = one.records(one.encode(items[:4]), fetched.records["sequence"][:4])
            assert fetched.records[:4].tobytes() == expected.tobytes()
            sequences = (await store.sequences(one.space, [item.item_id for item in items])).tolist()
            assert sequences == [r.sequence for r in (*receipts[:4], receipts[-1])]
            last = (await windows(redis, one.space))[-1]
            assert "i4" in last.item_ids
        await Rollovers(redis).clear(coming.id)
        await prepares(redis, [live.id])
        await ingest.push(Item("i0", {"title": "later"}))
        await ended(ingest, ["i0"])
        assert (await store.sequences(coming, ["i0"])).tolist() == [receipts[0].sequence]
    assert await Roster(redis).present() == []


async def test_what_only_the_next_encoder_refuses_is_scoreable_and_counted(
    redis: Redis,
    tmp_path: Path,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    bundle = make_encoder_bundle(tmp_path / "fragile", known_tokens=ASCII_TOKENS, seed=2)
    fragile = Encoder.open(str(bundle.path))
    await store.create_space(fragile.space)
    await begin(redis, Next(bundle, fragile))
    async with working(encoder_settings, settings) as running:
        await prepares(redis, [encoder.space.id, fragile.space.id])
        for item_id, title in (("a", "plain"), ("b", "\u00e9")):
            await ingest.push(Item(item_id, {"title": title}))
        statuses = await ended(ingest, ["a", "b"])
        assert running.worker.metrics.not_prepared._value.get() == 1
    assert {status.state for status in statuses} == {PushState.SCOREABLE}
    assert (await store.fetch(fragile.space, None, ["a", "b"])).found.tolist() == [True, False]


async def test_the_pointer_moves_and_nothing_that_was_pushed_is_missing(
    redis: Redis,
    tmp_path: Path,
    store: Store,
    bundle: Bundle,
    ingest: Ingest,
    encoder: Encoder,
    following: Next,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    """Pushes go on while the pointer moves; each is in the space that serves when it is done."""
    generations, ids = Generations(redis), list[str]()
    for number, (made, space) in enumerate(
        [(bundle, encoder.space), (following.bundle, following.encoder.space)]
    ):
        table = IdTable(f"table-{number}", 2, 16, 3)
        await store.load_id_rows(table, ["x", "y", "z"], make_id_rows(3))
        await store.seal_id_table(table)
        generation = make_generation(seal_ranker(tmp_path / f"ranker-{number}", space, 3), space, table)
        ids.append(await generations.publish(dataclasses.replace(generation, encoder_uri=str(made.path))))
    await generations.activate("default", ids[0])
    pushed: list[str] = []

    async def push_on() -> None:
        while True:
            await ingest.push(Item(f"p{len(pushed)}", {"title": "x"}))
            pushed.append(f"p{len(pushed)}")
            await asyncio.sleep(0.005)

    async with working(encoder_settings.model_copy(update={"encoder_uri": None}), settings):
        await begin(redis, following)
        await prepares(redis, [encoder.space.id, following.encoder.space.id])
        pushing = asyncio.create_task(push_on())
        await until(lambda: _reached(pushed, 20))
        await generations.activate("default", ids[1])
        await prepares(redis, [following.encoder.space.id])
        some_more = len(pushed) + 5
        await until(lambda: _reached(pushed, some_more))
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        await ended(ingest, pushed)
    assert (await store.fetch(following.encoder.space, None, pushed)).found.all()


async def _reached(pushed: list[str], count: int) -> bool:
    return len(pushed) >= count


async def test_an_encoder_that_cannot_be_opened_holds_nobody_up(
    redis: Redis,
    store: Store,
    ingest: Ingest,
    encoder: Encoder,
    following: Next,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
) -> None:
    space = following.encoder.space
    await Rollovers(redis).begin(space.id, "/nowhere", following.bundle.digest, space.buckets)
    async with working(encoder_settings, settings):
        await ingest.push(Item("a", {"title": "x"}))
        assert [s.state for s in await ended(ingest, ["a"])] == [PushState.SCOREABLE]
        await prepares(redis, [encoder.space.id])


async def test_the_list_of_spaces_in_preparation(redis: Redis, following: Next) -> None:
    rollovers, space = Rollovers(redis), following.encoder.space
    assert await rollovers.list() == []
    await begin(redis, following)
    (first,) = await rollovers.list()
    assert (first.space_id, first.buckets) == (space.id, space.buckets)
    await begin(redis, following)
    assert await rollovers.list() == [first]  # as it was
    await rollovers.clear(space.id)
    with pytest.raises(NotFound, match="space in preparation"):
        await rollovers.clear(space.id)
    with pytest.raises(UnknownVersion):
        parse_preparing("x", first.to_bytes().replace(b'"version":1', b'"version":2'))
    for broken in (b"", b"[]", b"{}", b'{"version":1}'):
        with pytest.raises(InvalidInput, match="space in preparation"):
            parse_preparing("x", broken)
    assert not await redis.exists(keys.preparing())
