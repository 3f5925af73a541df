"""The row cache over a real server: the store's answers, kept right by windows."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import ID_INT8
from contracts.errors import InvalidInput, Unavailable
from contracts.manifest import IdTable
from contracts.space import Space
from contracts.window import Window
from param_server.bulk_change import BulkChange
from param_server.cache import CacheLimits, RowCache
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.hot_ids import HotIds
from param_server.settings import StoreSettings
from param_server.store import Fetched, Store
from param_server.window_stream import window_stream
from param_server.windows import Windows
from tests.param_server.samples import make_deletes, make_id_rows, make_space, make_window

ITEMS = [f"item-{i}" for i in range(40)]
WITH_ID_ROW = [*ITEMS[:20], "id-only"]
ASKED = [*ITEMS, "id-only", "unknown", "{x}", "nul\0l"]
TABLE = IdTable("rows-1", ID_INT8, 16, len(WITH_ID_ROW))
LIMITS = CacheLimits(4 << 20, bound_s=2.0)


class CountingStore(Store):
    """A store that says how often and for how much it was asked, and waits where it is told to."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.reads: list[list[str]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def fetch(
        self, space: Space, id_table: IdTable | Sequence[IdTable] | None, item_ids: Sequence[str]
    ) -> Fetched:
        self.reads.append(list(item_ids))
        fetched = await super().fetch(space, id_table, item_ids)
        await self.go.wait()
        return fetched


class Shelf:
    """A filled space, an ID table, and a cache of both."""

    def __init__(self, redis: Redis, cache: RowCache, store: CountingStore, space: Space) -> None:
        self.redis, self.cache, self.store, self.space = redis, cache, store, space
        self.windows = Windows(store, redis, 100)

    async def fetch(self, ids: Sequence[str] = ASKED) -> Fetched:
        return await self.cache.fetch(self.space, TABLE, ids)

    async def reads(self, ids: Sequence[str] = ASKED) -> int:
        """How often the store is asked for these ids."""
        before = len(self.store.reads)
        await self.fetch(ids)
        return len(self.store.reads) - before

    async def push(self, window: Window) -> None:
        held = await self.windows.commit(window)
        await self.windows.announce(held)

    async def shows(self, item_id: str, sequence: int, found: bool = True) -> bool:
        got = await self.fetch([item_id])
        return bool(got.found[0]) == found and int(got.records["sequence"][0]) == sequence


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.01)


def same(left: Fetched, right: Fetched) -> bool:
    return (
        left.records.tobytes() == right.records.tobytes()
        and left.id_rows.tobytes() == right.id_rows.tobytes()
        and (left.found == right.found).all().item()
        and (left.id_found == right.id_found).all().item()
    )


@asynccontextmanager
async def opened(
    redis: Redis, stream: Redis | None = None, limits: CacheLimits = LIMITS
) -> AsyncIterator[Shelf]:
    store, space = CountingStore(redis), make_space()
    await store.create_space(space)
    await store.commit_window(make_window(space, ITEMS, range(10, 50)))
    await store.load_id_rows(TABLE, WITH_ID_ROW, make_id_rows(len(WITH_ID_ROW)))
    await store.seal_id_table(TABLE)
    cache = RowCache(store, stream or redis, limits, 0.5)
    cache.use(space, TABLE)
    try:
        await cache.warm((space, TABLE), [], np.zeros(0, np.uint8), 10.0)  # until windows are followed
        yield Shelf(redis, cache, store, space)
    finally:
        await cache.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, so that a restarted server has the same socket."""
    with tempfile.TemporaryDirectory(prefix="rc-") as path:
        yield Path(path)


async def test_rows_from_memory_equal_the_stores(redis: Redis) -> None:
    async with opened(redis) as shelf:
        expected = await shelf.store.fetch(shelf.space, TABLE, ASKED)
        for reads in (1, 0, 0):
            assert await shelf.reads() == reads
            assert same(await shelf.fetch(), expected)
        some = [ASKED[i] for i in (43, 5, 0, 40)]
        assert same(await shelf.fetch(some), await shelf.store.fetch(shelf.space, TABLE, some))
        mixed = ["new", "item-3", "newer"]
        assert same(await shelf.fetch(mixed), await shelf.store.fetch(shelf.space, TABLE, mixed))
        assert shelf.store.reads[-2] == ["new", "newer"]
        counts = shelf.cache.counts()
        assert counts.misses == {"content": len(ASKED) + 2, "id": len(ASKED) + 2}
        assert counts.hits["content"] == 5 * len(ASKED) + 4 + 1
        nothing = await shelf.fetch([])
        assert len(nothing.records) == len(nothing.id_rows) == 0


async def test_without_an_id_table(redis: Redis) -> None:
    async with opened(redis) as shelf:
        shelf.cache.use(shelf.space, None)
        expected = await shelf.store.fetch(shelf.space, None, ASKED)
        for _ in range(2):
            assert same(await shelf.cache.fetch(shelf.space, None, ASKED), expected)
        assert await shelf.reads() == 1  # content is there, ID rows are not


async def test_a_table_that_is_not_in_use_is_read_from_the_store(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        shelf.cache.keep([])
        assert shelf.cache.resident() == {"content": (0, 0), "id": (0, 0)}
        for _ in range(2):
            assert await shelf.reads() == 1


async def test_bad_ids_are_named_by_their_place(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        with pytest.raises(InvalidInput, match=r"item_ids\[2\]"):
            await shelf.fetch(["item-1", "fresh", ""])


async def test_a_push_reaches_a_cached_row_without_a_read(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        window = make_window(shelf.space, ["item-1", "item-2"], [1_000, 1_001], seed=7)
        await shelf.push(window)
        await until(lambda: shelf.shows("item-2", 1_001))
        assert len(shelf.store.reads) == 1
        got = await shelf.fetch(["item-1", "item-2"])
        assert got.records.tobytes() == window.records.tobytes()


async def test_an_older_window_changes_nothing(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        await shelf.windows.announce(make_window(shelf.space, ["item-1"], [3], seed=7))
        await shelf.push(make_window(shelf.space, ["item-0"], [1_000]))
        await until(lambda: shelf.shows("item-0", 1_000))
        assert await shelf.shows("item-1", 11)


async def test_a_delete_and_a_push_after_it(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        await shelf.push(make_deletes(shelf.space, ["item-1"], [1_000]))
        await until(lambda: shelf.shows("item-1", 0, found=False))
        await shelf.windows.announce(make_window(shelf.space, ["item-1"], [999]))  # late, and older
        await shelf.push(make_window(shelf.space, ["item-0"], [1_001]))
        await until(lambda: shelf.shows("item-0", 1_001))
        assert await shelf.shows("item-1", 0, found=False)
        await shelf.push(make_window(shelf.space, ["item-1"], [1_002]))
        await until(lambda: shelf.shows("item-1", 1_002))
        assert len(shelf.store.reads) == 1


async def test_an_unknown_item_that_is_pushed_is_found(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        await shelf.push(make_window(shelf.space, ["unknown"], [1_000]))
        await until(lambda: shelf.shows("unknown", 1_000))


async def test_a_deleted_item_read_as_absent_is_not_revived_by_a_late_window(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.store.commit_window(make_deletes(shelf.space, ["item-1"], [500]))
        assert await shelf.shows("item-1", 0, found=False)
        await shelf.windows.announce(make_window(shelf.space, ["item-1"], [400]))
        await shelf.push(make_window(shelf.space, ["item-0"], [1_000]))
        await until(lambda: shelf.shows("item-0", 1_000))
        assert await shelf.shows("item-1", 0, found=False)


async def test_a_read_that_a_window_overtook_is_not_kept(redis: Redis) -> None:
    """The store has answered with the old row, the window comes, then the answer lands."""
    async with opened(redis) as shelf:
        await shelf.fetch(["item-0"])
        shelf.store.go.clear()
        reading = asyncio.create_task(shelf.fetch(["item-1"]))
        await until(lambda: _is(len(shelf.store.reads) == 2))
        await shelf.store.sequences(shelf.space, ["item-1"])  # after the read, on the same server
        await shelf.push(make_window(shelf.space, ["item-1", "item-0"], [1_000, 1_000]))
        await until(lambda: shelf.shows("item-0", 1_000))
        shelf.store.go.set()
        assert (await reading).records["sequence"].tolist() == [11]
        assert await shelf.shows("item-1", 1_000)


async def test_one_read_for_all_who_wait_and_no_harm_by_who_gives_up(redis: Redis) -> None:
    async with opened(redis) as shelf:
        shelf.store.go.clear()
        first = asyncio.create_task(shelf.fetch(["item-1", "item-2"]))
        await until(lambda: _is(len(shelf.store.reads) == 1))
        others = [asyncio.create_task(shelf.fetch(["item-2", "item-1"])) for _ in range(5)]
        mixed = asyncio.create_task(shelf.fetch(["item-3", "item-1"]))
        await until(lambda: _is(shelf.cache.counts().joins == 11))
        first.cancel()
        shelf.store.go.set()
        for other in others:
            assert (await other).records["sequence"].tolist() == [12, 11]
        assert (await mixed).records["sequence"].tolist() == [13, 11]
        assert shelf.store.reads == [["item-1", "item-2"], ["item-3"]]
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_bytes_stay_within_the_limit(redis: Redis) -> None:
    async with opened(redis, limits=CacheLimits(16 << 10)) as shelf:
        for at in range(0, 2_000, 50):
            await shelf.fetch([f"other-{at + i}" for i in range(50)])
        assert sum(size for _, size in shelf.cache.resident().values()) <= 16 << 10
        second = IdTable("rows-2", ID_INT8, 16, 1)
        shelf.cache.use(shelf.space, second)
        assert sum(size for _, size in shelf.cache.resident().values()) <= 16 << 10
        shelf.cache.keep([(shelf.space, TABLE)])
        expected = await shelf.store.fetch(shelf.space, TABLE, ASKED)
        for _ in range(3):
            assert same(await shelf.fetch(), expected)


async def test_a_bulk_change_drops_rows_and_keeps_none_while_it_lasts(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        async with BulkChange(redis, shelf.space, 100) as change:
            await change.hold()
            await until(lambda: _reads(shelf))
            assert await shelf.reads() == 1  # nothing was kept
            await change.hold()
            await shelf.store.commit_window(make_window(shelf.space, ["item-1"], [1_000]))
            assert await shelf.shows("item-1", 1_000)
        await until(lambda: _kept(shelf))
        assert await shelf.shows("item-1", 1_000)


async def test_an_entry_of_a_later_build_drops_rows(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        await redis.xadd(window_stream(shelf.space.id).decode(), {"z": "1"})
        await until(lambda: _reads(shelf))


async def test_a_trimmed_stream_is_noticed(redis: Redis) -> None:
    """Windows that were trimmed before they were read: the follower is kept from the server meanwhile."""
    async with opened(redis) as shelf:
        await shelf.fetch()
        stream = window_stream(shelf.space.id).decode()
        async with redis.pipeline(transaction=True) as pipeline:  # nobody reads in between
            for _ in range(10):
                pipeline.xadd(stream, {"w": "lost"})
            pipeline.xtrim(stream, maxlen=0, approximate=False)
            await pipeline.execute()
        await shelf.store.commit_window(make_window(shelf.space, ["item-1"], [1_009]))
        await until(lambda: shelf.shows("item-1", 1_009))
        assert shelf.cache.counts().resyncs == 1
        await shelf.push(make_window(shelf.space, ["item-1"], [2_000]))
        await until(lambda: shelf.shows("item-1", 2_000))
        assert shelf.cache.counts().resyncs == 1


async def test_a_lost_connection_drops_nothing(redis: Redis) -> None:
    async with opened(redis) as shelf:
        await shelf.fetch()
        for _ in range(3):
            await redis.client_kill_filter(_type="normal", skipme=True)
            await shelf.push(make_window(shelf.space, ["item-1"], [int(time.time() * 1e3)]))
        newest = int((await shelf.store.sequences(shelf.space, ["item-1"]))[0])
        await until(lambda: shelf.shows("item-1", newest))
        assert shelf.cache.counts().resyncs == 0


async def test_a_stream_server_that_lost_its_windows(redis: Redis, directory: Path) -> None:
    """Killed, its files gone, started again: rows are dropped; windows of the new stream are followed."""
    server = EmbeddedServer.start(directory)
    stream = connect_one(server.url, StoreSettings(redis_url=server.url, socket_timeout_s=1.0))
    try:
        async with opened(redis, stream) as shelf:
            shelf.windows = Windows(shelf.store, stream, 100)
            await shelf.push(make_window(shelf.space, ["item-0"], [1_000]))
            await shelf.fetch()
            server.kill()
            for file in (*directory.glob("appendonlydir/*"), *directory.glob("*.rdb")):
                file.unlink()
            await shelf.store.commit_window(make_window(shelf.space, ["item-1"], [1_001]))
            server = EmbeddedServer.start(directory)
            await until(lambda: _is(shelf.cache.counts().resyncs == 1), 20)
            assert await shelf.shows("item-1", 1_001)
            await shelf.push(make_window(shelf.space, ["item-1"], [1_002]))
            await until(lambda: shelf.shows("item-1", 1_002))
    finally:
        await stream.aclose()
        server.stop()


async def test_rows_are_not_given_while_the_stream_is_silent(redis: Redis, directory: Path) -> None:
    """Past the bound content comes from the store; with the store gone too the policy decides."""
    server = EmbeddedServer.start(directory)
    stream = connect_one(server.url, StoreSettings(redis_url=server.url, socket_timeout_s=0.5))
    try:
        async with opened(redis, stream, CacheLimits(1 << 20, 0.4, "flagged")) as shelf:
            await shelf.fetch()
            assert await shelf.reads() == 0
            server.kill()
            await until(lambda: _reads(shelf))
            assert shelf.cache.lag_s > 0.4
            await shelf.store.commit_window(make_window(shelf.space, ["item-1"], [1_001]))
            assert await shelf.shows("item-1", 1_001)
            server = EmbeddedServer.start(directory)
            await until(lambda: _kept(shelf), 20)
            assert shelf.cache.counts().resyncs == 0  # nothing was missed
    finally:
        await stream.aclose()
        server.stop()


@pytest.mark.parametrize("policy", ["refuse", "flagged"])
async def test_with_the_tables_gone_too_the_policy_decides(directory: Path, policy: str) -> None:
    server = EmbeddedServer.start(directory)
    redis = connect_one(server.url, StoreSettings(redis_url=server.url, socket_timeout_s=0.5))
    limits = CacheLimits(1 << 20, 0.3, "flagged" if policy == "flagged" else "refuse")
    try:
        async with opened(redis, limits=limits) as shelf:
            expected = await shelf.fetch()
            server.kill()
            if policy == "refuse":

                async def refused() -> bool:
                    try:
                        await shelf.fetch()
                    except Unavailable:
                        return True
                    return False

                await until(refused)
                return

            async def stale() -> bool:
                return (await shelf.fetch()).stale

            await until(stale)
            assert same(await shelf.fetch(), expected)
            some = await shelf.fetch(["item-1", "never asked for"])
            assert (some.found.tolist(), some.stale) == ([True, False], True)
            assert shelf.cache.counts().stale >= 3
    finally:
        await redis.aclose()
        server.stop()


async def test_what_was_asked_for_most_is_warm_in_the_next_process(redis: Redis, directory: Path) -> None:
    hot = HotIds(directory / "cache" / "hot_ids.json", 30)
    async with opened(redis) as shelf:
        for _ in range(3):
            await shelf.fetch(ITEMS[:20])
        await shelf.fetch()
        hot.save(*shelf.cache.hottest(30))
        ids, counts = hot.load()
        assert set(ids[:20]) == set(ITEMS[:20])
        assert len(ids) == 30
        cache = RowCache(shelf.store, redis, LIMITS, 0.5)
        try:
            cache.use(shelf.space, TABLE)
            seen: list[int] = []
            assert await cache.warm((shelf.space, TABLE), ids, counts, 10.0, seen.append) == 30
            assert seen == [30]
            before = len(shelf.store.reads)
            await cache.fetch(shelf.space, TABLE, ITEMS[:20])
            assert len(shelf.store.reads) == before
            assert set(cache.hottest(20)[0]) == set(ids[:20])
        finally:
            await cache.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "ids": [], "counts": []}',
        '{"version": 1, "ids": ["a"], "counts": []}',
        '{"version": 1, "ids": [""], "counts": [1]}',
        '{"version": 1, "ids": [7], "counts": [1]}',
        '{"version": 1, "ids": ["a"], "counts": [256]}',
        '{"version": 1, "ids": ["a", "a"], "counts": [1, 1]}',
        "[" * 100_000,
    ],
)
def test_a_broken_file_of_hot_ids_is_passed_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hot_ids.json"
    path.write_text(text)
    assert HotIds(path, 10).load()[0] == []


async def _is(value: bool) -> bool:
    return value


async def _reads(shelf: Shelf) -> bool:
    return await shelf.reads() > 0


async def _kept(shelf: Shelf) -> bool:
    return await shelf.reads() == 0
