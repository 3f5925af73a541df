"""The stored behaviours against a plain list, on a real server."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from contracts.errors import InvalidInput, TooLarge, Unavailable, UnknownVersion
from contracts.events import MAX_EVENTS, Appended, Event, Forgotten
from contracts.request import Behaviour
from param_server import keys
from param_server.behaviour_rows import event_digest, pack
from param_server.behaviours import Behaviours, Count
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.rows import BrokenRow
from param_server.settings import StoreSettings
from tests.contracts.hostile import BAD_IDS, ODD_IDS

Row = tuple[int, bytes, str]


@dataclass
class Model:
    """What Behaviours says it does, with lists."""

    lists: dict[str, list[Row]] = field(default_factory=dict)
    forgotten: dict[str, int] = field(default_factory=dict)

    def append(self, events: list[Event], most: int) -> Appended:
        counts = {"appended": 0, "duplicates": 0, "too_old": 0, "forgotten": 0}
        for user in dict.fromkeys(e.user_id for e in events):
            batch: dict[bytes, Row] = {}
            for e in sorted((e for e in events if e.user_id == user), key=lambda e: e.timestamp_ms or 0):
                time = e.timestamp_ms or 0
                digest = event_digest(e.event_id, e.item_id, time, e.kind)
                if digest in batch:
                    counts["duplicates"] += 1
                else:
                    batch[digest] = (time, digest, e.item_id)
            counts["too_old"] += max(0, len(batch) - most)
            held = self.lists.get(user, [])
            known = {digest for _, digest, _ in held}
            new = []
            for row in list(batch.values())[-most:]:
                if row[0] <= self.forgotten.get(user, -1):
                    counts["forgotten"] += 1
                elif row[1] in known:
                    counts["duplicates"] += 1
                elif len(held) >= most and row[0] <= held[0][0]:
                    counts["too_old"] += 1
                else:
                    new.append(row)
            merged = sorted(held + new, key=lambda row: row[0])
            kept = merged[-most:]
            gone = sum(row in new for row in merged[: len(merged) - len(kept)])
            counts["appended"] += len(new) - gone
            counts["too_old"] += gone
            if kept:
                self.lists[user] = kept
        return Appended(**counts)

    def read(self, user: str) -> list[Behaviour]:
        return [Behaviour(item, time) for time, _, item in self.lists.get(user, [])]


USERS = ["u", "{u}", "u\0"]
EVENT = st.builds(
    Event,
    st.sampled_from(USERS),
    st.sampled_from(["a", "b", "é" * 128, "\0{}", "x" * 256]),
    st.integers(0, 30),
    st.none() | st.integers(0, 12).map(str),
    st.none() | st.sampled_from(["buy"]),
)
STEP = st.one_of(
    st.tuples(st.just("append"), st.lists(EVENT, max_size=8), st.sampled_from([1, 2, 5, 5, 5])),
    st.tuples(st.just("again"), st.integers(0, 20), st.just(5)),
    st.tuples(st.just("forget"), st.sampled_from(USERS), st.just(0)),
)


@given(st.lists(STEP, max_size=25))
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
async def test_any_history_is_that_of_a_plain_list(
    redis: Redis, steps: list[tuple[str, object, int]]
) -> None:
    await redis.flushdb()
    model, calls = Model(), list[list[Event]]()
    for step, what, most in steps:
        if step == "forget":
            assert isinstance(what, str)
            done = await Behaviours(redis).forget(what)
            assert done.behaviours == len(model.lists.pop(what, []))
            assert done.forgotten_ms >= model.forgotten.get(what, 0)
            model.forgotten[what] = done.forgotten_ms
        else:
            if isinstance(what, int):  # an earlier call once more, as after a lost answer
                events = calls[what % len(calls)] if calls else []
            else:
                assert isinstance(what, list)
                events = what
                calls.append(events)
            assert await Behaviours(redis, most).append(events) == model.append(events, most)
        assert await Behaviours(redis).read(USERS) == [model.read(user) for user in USERS]
        held = [rows for rows in model.lists.values() if rows]
        assert await Behaviours(redis).count() == Count(len(held), sum(map(len, held)))


async def test_stored_bytes(redis: Redis) -> None:
    store = Behaviours(redis)
    await store.append([Event("u", "b", 0x0102, event_id="2"), Event("u", "aé", 7, event_id="1")])
    _, key = keys.user(b"u")
    assert b"u:" in key
    stored = await redis.get(key)
    assert isinstance(stored, bytes)
    first, second = event_digest("1", "", 0), event_digest("2", "", 0)
    head = bytes.fromhex("01000200 0000000000000000 0700000000000000 0201000000000000")
    assert stored == head + first + second + b"\x02\x00" + "aéb".encode()
    assert await redis.ttl(key) == -1
    assert (first.hex(), event_digest(None, "a", 5).hex()) == ("17388b93bfdfb109", "560e6b991afe99d6")


async def test_late_events_go_to_their_time_and_equal_times_keep_their_order(redis: Redis) -> None:
    store = Behaviours(redis, 4)
    for item, time in (("a", 10), ("c", 30), ("b", 20), ("b2", 20), ("b3", 20)):
        await store.append([Event("u", item, time)])
    assert [b.item_id for b in (await store.read(["u"]))[0]] == ["b", "b2", "b3", "c"]
    late = await store.append([Event("u", "a", 10), Event("u", "z", 20)])
    assert late == Appended(too_old=2)
    assert [b.item_id for b in (await store.read(["u"], 2))[0]] == ["b3", "c"]


async def test_a_digest_inside_another_ones_bytes_is_no_duplicate(redis: Redis) -> None:
    store, one, two = Behaviours(redis), b"ABCDEFGH", b"IJKLMNOP"
    await store.append_packed(["u"], [pack([1, 2], [one, two], [b"a", b"b"])])
    across = (one + two)[3:11]
    assert await store.append_packed(["u"], [pack([3], [across], [b"c"])]) == Appended(appended=1)
    assert await store.append_packed(["u"], [pack([4], [two], [b"d"])]) == Appended(duplicates=1)


async def test_a_forgotten_user_stays_forgotten_and_may_come_back(redis: Redis) -> None:
    store = Behaviours(redis)
    ahead = 2**53 - 10
    await store.append([Event("u", "a", 1_000, event_id="e"), Event("u", "b", ahead)])
    done = await store.forget("u")
    assert done == Forgotten("u", 2, ahead)  # at least the newest that was deleted
    assert await store.read(["u"]) == [[]]
    again = await store.append([Event("u", "a", 1_000, event_id="e"), Event("u", "b", ahead)])
    assert again == Appended(forgotten=2)
    assert await store.append([Event("u", "a", ahead + 1, event_id="e")]) == Appended(appended=1)
    assert await store.forget("u") == Forgotten("u", 1, ahead + 1)
    assert (await store.forget("never seen")).behaviours == 0
    assert (await store.append([Event("never seen", "a", 1)])).forgotten == 1
    _, key = keys.user(b"u")
    assert len(await redis.get(key) or b"") == 12


async def test_two_writers_lose_nothing(redis: Redis) -> None:
    events = [Event(f"u{n % 7}", f"i{n}", 1_000 + n % 90) for n in range(600)]
    random.Random(1).shuffle(events)

    async def write(mine: list[Event]) -> int:
        calls = [mine[at : at + 9] for at in range(0, len(mine), 9)]
        return sum([(await Behaviours(redis).append(call)).appended for call in calls])

    counts = await asyncio.gather(write(events[:400]), write(events[200:]))  # 200 of them twice
    assert sum(counts) == len(events)
    for user, history in enumerate(await Behaviours(redis).read([f"u{u}" for u in range(7)])):
        mine = [e for e in events if e.user_id == f"u{user}"]
        assert sorted(b.item_id for b in history) == sorted(e.item_id for e in mine)
        assert [b.timestamp_ms for b in history] == sorted(e.timestamp_ms or 0 for e in mine)


@pytest.mark.parametrize("name", ODD_IDS)
async def test_odd_ids_are_ids(redis: Redis, name: str) -> None:
    store = Behaviours(redis)
    await store.append([Event(name, name, 5, event_id=name), Event("other", "x", 5)])
    assert await store.read([name]) == [[Behaviour(name, 5)]]
    assert (await store.forget(name)).behaviours == 1
    assert await store.read([name, "other"]) == [[], [Behaviour("x", 5)]]


async def test_bad_input_is_refused_and_named(redis: Redis) -> None:
    store = Behaviours(redis)
    for bad in (*(b for b in BAD_IDS if isinstance(b, str)), "x" * 10_000):
        with pytest.raises((InvalidInput, TooLarge), match="user_id"):
            await store.append([Event(bad, "a", 1)])
        with pytest.raises((InvalidInput, TooLarge), match="user_id"):
            await store.read([bad])
        with pytest.raises((InvalidInput, TooLarge), match="user_id"):
            await store.forget(bad)
    for time in (None, -1, 2**53):
        with pytest.raises(InvalidInput, match=r"events\[1\].timestamp_ms"):
            await store.append([Event("u", "a", 1), Event("u", "a", time)])
    with pytest.raises(TooLarge, match="10001 events"):
        await store.append([Event("u", "a", 1)] * (MAX_EVENTS + 1))
    for most in (0, 1_001):
        with pytest.raises(InvalidInput, match="most"):
            Behaviours(redis, most)
    assert await redis.dbsize() == 0


async def test_unknown_versions_and_broken_bytes_are_refused(redis: Redis) -> None:
    store = Behaviours(redis)
    await store.append([Event("u", "a", 1)])
    _, key = keys.user(b"u")
    good = await redis.get(key)
    assert isinstance(good, bytes)
    for bad, kind in (
        (b"\x02" + good[1:], UnknownVersion),
        (b"\x01\x01" + good[2:], UnknownVersion),
        (good[:-1], BrokenRow),
        (good[:5], BrokenRow),
        (good[:2] + b"\x09" + good[3:], BrokenRow),
    ):
        await redis.set(key, bad)
        with pytest.raises(kind):
            await store.read(["u"])
        if bad != good[:-1]:  # a writer does not add up the ids
            for write in (store.append([Event("u", "b", 2)]), store.forget("u")):
                with pytest.raises(kind):
                    await write
        assert await redis.get(key) == bad


async def test_a_server_that_would_lose_them_is_refused_with_the_fix(redis: Redis) -> None:
    await redis.config_set("appendonly", "no")
    try:
        with pytest.raises(Unavailable, match="CONFIG SET appendonly yes"):
            await Behaviours(redis).append([Event("u", "a", 1)])
    finally:
        await redis.config_set("appendonly", "yes")
    assert await Behaviours(redis).read(["u"]) == [[]]


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_kill_9_loses_nothing_that_was_acknowledged(
    tmp_path: Path, appendfsync: Literal["always", "everysec"]
) -> None:
    acknowledged, sent = set[str](), 0
    for attempt in range(3):
        server = EmbeddedServer.start(tmp_path, appendfsync=appendfsync)
        async with connect(server.url, StoreSettings()) as redis:
            store = Behaviours(redis, 1_000)
            assert await store.check() == ("always" if appendfsync == "always" else "waitaof")
            killer = threading.Timer(0.3 + 0.05 * attempt, server.kill)
            killer.start()
            try:
                while sent < 100_000:
                    sent += 1
                    users = [f"u{(sent + n) % 50}" for n in range(3)]
                    done = await store.append([Event(user, f"i{sent}", sent) for user in users])
                    assert done.appended == 3
                    acknowledged.update(f"{user} i{sent}" for user in users)
            except Unavailable:
                await asyncio.to_thread(killer.join)
            assert not server.running
        with EmbeddedServer.start(tmp_path) as again:
            async with connect(again.url, StoreSettings()) as redis:
                users = [f"u{n}" for n in range(50)]
                histories = await Behaviours(redis).read(users)
                found = {f"{u} {b.item_id}" for u, h in zip(users, histories, strict=True) for b in h}
                assert (await Behaviours(redis).count()).behaviours == sum(map(len, histories))
        assert acknowledged <= found
    assert len(acknowledged) > 10


async def test_kill_9_brings_no_forgotten_user_back(tmp_path: Path) -> None:
    with EmbeddedServer.start(tmp_path) as server:
        async with connect(server.url, StoreSettings()) as redis:
            await Behaviours(redis).append([Event(f"u{n}", "a", 5) for n in range(20)])
            for n in range(20):
                await Behaviours(redis).forget(f"u{n}")
            server.kill()
    with EmbeddedServer.start(tmp_path) as again:
        async with connect(again.url, StoreSettings()) as redis:
            late = [Event(f"u{n}", "a", 5) for n in range(20)]
            assert await Behaviours(redis).append(late) == Appended(forgotten=20)
            assert await Behaviours(redis).count() == Count(0, 0)
