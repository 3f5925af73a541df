from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.space import Space
from contracts.window import Window, encode_window
from param_server.embedded import EmbeddedServer
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.stream_id import START, StreamId
from param_server.window_stream import (
    WINDOW_FIELD,
    Announcements,
    ChangeNotice,
    window_bytes,
    window_owed,
    window_stream,
    window_sunk,
)
from param_server.windows import Windows
from realtime_infer.app import RunningSink
from tests.param_server.samples import make_records, make_space, make_window
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.sinks import (
    Pushes,
    announced_twice,
    assert_whole,
    follows,
    newest,
    quick,
    sinking,
    times,
    written,
)
from tests.realtime_infer.workers import process, until, wait_line


@pytest.fixture
async def space(redis: Redis) -> Space:
    made = make_space(dim=4)
    await Store(redis).create_space(made)
    return made


def metric(text: str, name: str, space: Space) -> float:
    line = next(line for line in text.splitlines() if line.startswith(f'{name}{{space="{space.id}"}}'))
    return float(line.split()[-1])


async def test_windows_of_every_space_are_written_once(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """A space that is made later is found; deletions stay; files are named by what they hold."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    await pushes.push("before", "é\0{x}")
    async with sinking(quick(tmp_path), settings) as running:
        for i in range(30):
            await pushes.push(f"i{i % 7}", "a")
        await pushes.push("a", delete=True)
        later = make_space(dim=2)
        await Store(redis).create_space(later)
        others = Pushes(redis, later)
        await others.push("x")
        await written(redis, table, space)
        await written(redis, table, later)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{running.http_url}/health/ready")).status_code == 200
            text = (await client.get(f"{running.http_url}/metrics")).text
    await assert_whole(redis, table, pushes)
    await assert_whole(redis, table, others)
    assert "a" not in table.read(space)[0]
    assert metric(text, "repcenter_sink_leading", space) == 1
    assert metric(text, "repcenter_sink_pending_windows", space) == 0
    assert metric(text, "repcenter_sink_files_total", space) >= 1
    assert metric(text, "repcenter_sink_gaps_healed_total", space) == 0
    assert await redis.get(window_sunk(space.id)) == (await newest(redis, space)).encode()


async def test_a_window_announced_again_is_left_out(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """The first announcement's time stays."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    async with sinking(quick(tmp_path, sink_roll_s=3600), settings) as running:
        await follows(table, space)
        first = await pushes.push("a", "b")
        ids = await entries(redis, window_stream(space.id))
        for _ in range(3):
            await pushes.windows.announce(first)
    text = running.metrics.expose().decode()
    assert metric(text, "repcenter_sink_duplicates_total", space) == 6
    await assert_whole(redis, table, pushes)
    assert announced_twice(table, space) == 0
    assert set(times(table, space).values()) == {StreamId.parse(ids[0][0]).ms}


async def test_a_file_rolls_by_bytes(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    async with sinking(quick(tmp_path, sink_roll_s=3600, sink_roll_bytes=2_000), settings):
        await follows(table, space)
        size = 0
        for i in range(20):
            size += len(encode_window(await pushes.push(*(f"{i}-{j}" for j in range(5)))))

        async def most() -> bool:
            return len(table.files.names(space.id)) > size // 4_000

        await until(most)
    await assert_whole(redis, table, pushes)
    assert announced_twice(table, space) == 0


async def test_a_sink_that_starts_late_takes_what_is_on_the_shelf(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """What the stream has forgotten comes from the table; what it holds keeps its own time."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space, max_windows=5)
    for i in range(20):
        await pushes.push(f"i{i}")
    held = dict(await entries(redis, window_stream(space.id)))
    assert len(held) == 5
    async with sinking(quick(tmp_path), settings):
        await written(redis, table, space)
    await assert_whole(redis, table, pushes)
    found = times(table, space)
    assert [found[f"i{i}", i + 1] for i in range(15, 20)] == [StreamId.parse(e).ms for e in held]
    assert min(found[f"i{i}", i + 1] for i in range(15)) >= max(StreamId.parse(e).ms for e in held)


async def test_the_stream_keeps_what_is_not_written_and_never_more_than_its_bytes(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    table = OfflineTable(str(tmp_path))
    message = len(encode_window(make_window(space, ["i00"], [1])))
    pushes = Pushes(redis, space, max_windows=3, max_bytes=40 * message)
    async with sinking(quick(tmp_path), settings):
        await pushes.push("first")
        await written(redis, table, space)
    for i in range(20):
        await pushes.push(f"i{i:02d}")
    assert await redis.xlen(window_stream(space.id)) == 21  # what was written last anchors the rest
    assert int(await redis.get(window_bytes(space.id)) or 0) == 20 * message + message + len("first") - 3
    async with sinking(quick(tmp_path), settings) as running:
        await written(redis, table, space)
        assert metric(running.metrics.expose().decode(), "repcenter_sink_gaps_healed_total", space) == 0
        await pushes.push("one more")
    assert await redis.xlen(window_stream(space.id)) == 3
    for i in range(60):
        await pushes.push(f"j{i:02d}")
    assert await redis.xlen(window_stream(space.id)) <= 40
    async with sinking(quick(tmp_path), settings) as running:
        await written(redis, table, space)
        assert metric(running.metrics.expose().decode(), "repcenter_sink_gaps_healed_total", space) == 1
    await assert_whole(redis, table, pushes)


async def test_a_lost_stream_is_healed_while_the_sink_runs(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """The stream goes, with windows that no sink has read; the new one begins with lower ids."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    ahead = StreamId(4_000_000_000_000, 7)
    first = make_window(space, ["ahead"], [1])
    await Store(redis).commit_window(first)
    pushes.sequence = 1
    pushes.records["ahead", 1] = first.records.tobytes()
    await redis.xadd(window_stream(space.id), {WINDOW_FIELD: encode_window(first)}, id=str(ahead))
    async with sinking(quick(tmp_path, sink_lease_s=0.1), settings):
        await written(redis, table, space)
        await redis.delete(window_stream(space.id))
        lost = Window(space, ["lost"], make_records(space, [2]), 1)
        await Store(redis).commit_window(lost)
        pushes.sequence, pushes.records["lost", 2] = 2, lost.records.tobytes()

        async def healed() -> bool:
            return "lost" in table.read(space)[0]

        await until(healed)
        await pushes.push("after")
        assert await newest(redis, space) > ahead
        await written(redis, table, space)
    await assert_whole(redis, table, pushes)


async def test_a_broken_window_is_passed_over(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    async with sinking(quick(tmp_path), settings) as running:
        await pushes.push("a")
        await written(redis, table, space)
        await redis.xadd(window_stream(space.id), {WINDOW_FIELD: b"RW\x09 no window of ours"})
        await pushes.push("b")
        await written(redis, table, space)
        assert metric(running.metrics.expose().decode(), "repcenter_sink_broken_windows_total", space) == 1
    await assert_whole(redis, table, pushes)


async def test_two_sinks_take_turns(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """One writes, the other takes over when it ends."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)

    async def leads(running: RunningSink) -> bool:
        return f'repcenter_sink_leading{{space="{space.id}"}} 1.0' in running.metrics.expose().decode()

    async with sinking(quick(tmp_path), settings) as second:
        async with sinking(quick(tmp_path), settings) as first:
            await pushes.push("a")
            await written(redis, table, space)
            assert await leads(first) != await leads(second)
            await pushes.push("b")
            await written(redis, table, space)
        await until(lambda: leads(second))
        await pushes.push("c")
        await written(redis, table, space)
    await assert_whole(redis, table, pushes)
    assert announced_twice(table, space) == 0


async def test_two_sinks_that_both_write_corrupt_nothing(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """The leases are deleted under them again and again: overlapping files, one table."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    async with (
        sinking(quick(tmp_path, sink_roll_s=0.01, sink_lease_s=0.1), settings),
        sinking(quick(tmp_path, sink_roll_s=0.02, sink_lease_s=0.1), settings),
    ):
        for i in range(60):
            await pushes.push(f"i{i}", "same")
            if i % 10 == 5:
                await redis.delete(window_stream(space.id) + b":lease")
                await asyncio.sleep(0.02)
        await written(redis, table, space)
    await assert_whole(redis, table, pushes)


async def test_kill_9_at_random_moments_leaves_no_gap_and_no_duplicate(
    server: EmbeddedServer, redis: Redis, space: Space, tmp_path: Path
) -> None:
    table, pushes, chance = OfflineTable(str(tmp_path)), Pushes(redis, space), random.Random(7)
    options = quick(tmp_path, sink_roll_s=0.03, sink_lease_s=0.2).model_dump(exclude_none=True)
    pushing = True

    async def push() -> None:
        while pushing:
            ids = [f"i{chance.randrange(50)}", f"n{pushes.sequence}"]
            await pushes.push(*ids, delete=chance.random() < 0.1)
            await asyncio.sleep(0.002)

    task = asyncio.create_task(push())
    for kill in (True, True, False):
        with process("run_sink", server.url, **options) as sink:
            await asyncio.to_thread(wait_line, sink, "ready ")
            before = len(table.files.names(space.id))

            async def more(least: int = before + chance.randrange(1, 4)) -> bool:
                return len(table.files.names(space.id)) > least

            await until(more)
            await asyncio.sleep(chance.random() * 0.05)
            if kill:
                sink.kill()
            else:
                pushing = False
                await task
                sink.send_signal(signal.SIGTERM)
            await asyncio.to_thread(sink.wait, 20)
            assert sink.returncode == (-signal.SIGKILL if kill else 0)
    assert table.files.checkpoint(space.id) == await newest(redis, space)  # SIGTERM writes what was read
    await assert_whole(redis, table, pushes)
    assert announced_twice(table, space) == 0
    assert not list(tmp_path.rglob("*.part"))


async def test_a_sink_on_an_object_store(redis: Redis, settings: StoreSettings, space: Space) -> None:
    table, pushes = OfflineTable("memory://sink"), Pushes(redis, space)
    async with sinking(quick("memory://sink", sink_compact_s=0.05, sink_roll_s=0.01), settings):
        for i in range(40):
            await pushes.push(f"i{i % 5}")
            await asyncio.sleep(0.003)
        await written(redis, table, space)
    await assert_whole(redis, table, pushes)


async def test_the_door_and_the_worker_do_not_need_it(redis: Redis, space: Space) -> None:
    """Without a sink the stream keeps its newest windows only."""
    windows = Windows(Store(redis), redis, 4)
    for sequence in range(1, 9):
        window = make_window(space, ["a"], [sequence], seed=sequence)
        await windows.announce(await windows.commit(window))
    assert await redis.xlen(window_stream(space.id)) == 4
    assert np.array_equal((await Store(redis).sequences(space, ["a"])), [8])
    assert await newest(redis, space) > START


async def test_rows_that_changed_without_windows_are_taken(
    redis: Redis, settings: StoreSettings, space: Space, tmp_path: Path
) -> None:
    """A bulk load that ends in good order; one whose notice runs out; one that a killed sink has passed."""
    table, pushes = OfflineTable(str(tmp_path)), Pushes(redis, space)
    announce = Announcements(redis, 100)

    async def change(item_id: str, lasts_ms: int) -> None:
        ((field, value),) = ChangeNotice("0" * 16, lasts_ms).fields().items()
        await announce.add(space.id, field, value)
        if item_id:
            pushes.sequence += 1
            window = make_window(space, [item_id], [pushes.sequence])
            await Store(redis).commit_window(window)
            pushes.records[item_id, pushes.sequence] = window.records.tobytes()

    async def nothing_owed() -> bool:
        return not await redis.exists(window_owed(space.id))

    async with sinking(quick(tmp_path), settings):
        await follows(table, space)
        await change("a", 60_000)
        await pushes.push("b")
        await written(redis, table, space)
        assert not await nothing_owed()
        await change("", 0)
        await until(nothing_owed)
        await change("c", 100)
        await written(redis, table, space)
        await until(nothing_owed)
    await assert_whole(redis, table, pushes)
    async with sinking(quick(tmp_path), settings):
        await change("d", 60_000)
        await written(redis, table, space)
    assert not await nothing_owed()
    async with sinking(quick(tmp_path), settings):
        await change("", 0)
        await until(lambda: _holds(table, space, "d"))
    assert not await nothing_owed()  # the writer may have said more before the sink came back
    await assert_whole(redis, table, pushes)


async def _holds(table: OfflineTable, space: Space, item_id: str) -> bool:
    return item_id in table.read(space)[0]
