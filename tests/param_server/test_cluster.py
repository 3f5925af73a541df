"""A real cluster of three primaries and their replicas: rows spread over it, slots that move and a primary
that is killed while rows are read and written."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from redis.crc import key_slot

from contracts.errors import InvalidInput, Unavailable
from contracts.events import Event
from contracts.space import Space
from param_server import keys
from param_server.behaviours import Behaviours
from param_server.cluster import Cluster
from param_server.connection import connect, redacted
from param_server.embedded_cluster import EmbeddedCluster
from param_server.inspection import inspect_tables
from param_server.scan import scan
from param_server.server_checks import check_durable, check_layout, check_policy
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.param_server.clusters import Reshard, cluster, redis
from tests.param_server.samples import make_space, make_window

__all__ = ["cluster", "redis"]

ITEMS = [f"item {i}" for i in range(3_000)]
MOVED_SHARDS = 6
PATIENCE_S = 30.0


async def filled(redis: Cluster) -> tuple[Store, Space]:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    assert (await store.commit_window(make_window(space, ITEMS, range(1, len(ITEMS) + 1)))).all()
    return store, space


async def counts(redis: Cluster, section: str) -> dict[str, int]:
    """Calls of some commands, of each primary."""
    found = {}
    for (host, port), node in (await redis.primaries()).items():
        stats = await node.info("commandstats")
        found[f"{host}:{port}"] = int(stats.get(section, {"calls": 0})["calls"])
    return found


async def test_rows_spread_over_the_nodes_and_come_back_in_order(redis: Cluster) -> None:
    store, space = await filled(redis)
    state = await inspect_tables(redis, scanned=True)
    [only] = state.spaces
    assert len(state.servers) == 3
    assert only.live == len(ITEMS) == sum(only.live_by_server)
    assert all(
        rows > 300 and server.slots for rows, server in zip(only.live_by_server, state.servers, strict=True)
    )
    order = np.random.default_rng(0).permutation(len(ITEMS))
    got = await store.fetch(space, None, [*(ITEMS[i] for i in order), "absent"])
    assert got.found.tolist() == [True] * len(ITEMS) + [False]
    assert (got.records["sequence"][:-1] == order + 1).all()
    seen = [item async for part in scan(redis, keys.records(space.id, space.buckets)) for item in part.ids]
    assert sorted(seen) == sorted(item.encode() for item in ITEMS)
    assert await store.high_water() == len(ITEMS)


async def test_every_node_gets_its_share_in_one_round_trip(redis: Cluster) -> None:
    store, space = await filled(redis)
    for node in (await redis.primaries()).values():
        await node.config_resetstat()
    await store.fetch(space, None, ITEMS[:1_000])
    read = await counts(redis, "cmdstat_hget")
    assert sum(read.values()) == 1_000
    assert min(read.values()) > 200


async def test_every_primary_is_checked(redis: Cluster) -> None:
    await check_policy(redis)
    await check_layout(redis, 400)
    assert await check_durable(redis) == "waitaof"
    (_, _, (address, last)) = (await redis.primaries()).items()
    where = f"{address[0]}:{address[1]}: "
    await last.config_set("maxmemory-policy", "allkeys-lru")
    await last.config_set("hash-max-listpack-value", 64)
    await last.config_set("appendfsync", "no")
    try:
        with pytest.raises(Unavailable, match=where + "maxmemory-policy is allkeys-lru"):
            await check_policy(redis)
        with pytest.raises(Unavailable, match=where + "hash-max-listpack-value is 64"):
            await check_layout(redis, 400)
        with pytest.raises(Unavailable, match=where + "appendfsync is no"):
            await check_durable(redis)
    finally:
        await last.config_set("maxmemory-policy", "noeviction")
        await last.config_set("hash-max-listpack-value", 8_192)
        await last.config_set("appendfsync", "everysec")


async def test_a_replica_must_keep_what_it_gets_too(cluster: EmbeddedCluster, redis: Cluster) -> None:
    primaries = set(await redis.primaries())
    replica = next(node for node in cluster.nodes if ("127.0.0.1", node.port) not in primaries)
    client = redis.node(("127.0.0.1", replica.port))
    await client.config_set("appendonly", "no")
    try:
        with pytest.raises(Unavailable, match=f"127.0.0.1:{replica.port}: appendonly is no"):
            await check_durable(redis)
    finally:
        await client.config_set("appendonly", "yes")
    replica.kill()  # nobody who could take over
    try:
        assert await check_durable(redis) == "waitaof"
    finally:
        cluster.restart(replica)
        await asyncio.to_thread(cluster.wait)


async def test_a_script_that_one_node_forgot_is_loaded_there_again(redis: Cluster) -> None:
    store, space = await filled(redis)
    await next(iter((await redis.primaries()).values())).script_flush()
    assert (await store.commit_window(make_window(space, ITEMS, range(5_000, 5_000 + len(ITEMS))))).all()


async def test_a_commit_without_its_replicas_is_unavailable_and_repeated_waits_again(
    cluster: EmbeddedCluster, redis: Cluster
) -> None:
    store, space = await filled(redis)
    window = make_window(space, ITEMS[:200], range(10_000, 10_200))
    async with connect(cluster.url, StoreSettings(wait_replicas=1, wait_timeout_ms=100)) as waiting:
        await Store(waiting).commit_window(make_window(space, ITEMS[:200], range(9_000, 9_200)))
        stopped = [node for node in cluster.nodes if node.primary is not None]
        for node in stopped:
            os.kill(node.pid, signal.SIGSTOP)
        try:
            for _ in range(2):  # what is there already is written again, or WAIT had nothing to wait for
                with pytest.raises(Unavailable, match="0 of 1 replicas have the write after 100 ms"):
                    await Store(waiting).commit_window(window)
        finally:
            for node in stopped:
                os.kill(node.pid, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                assert (await Store(waiting).commit_window(window)).all()
                break
            except Unavailable:
                assert time.monotonic() < deadline
    assert (await store.fetch(space, None, ITEMS[:200])).records["sequence"].tolist() == [
        *range(10_000, 10_200)
    ]


class Traffic:
    """Reads and writes of all items by several tasks at once, and how each call ended."""

    def __init__(self, store: Store, behaviours: Behaviours, space: Space) -> None:
        self._store, self._behaviours, self._space = store, behaviours, space
        self.outcomes: Counter[str] = Counter()
        self.committed = np.arange(1, len(ITEMS) + 1)  # newest acknowledged sequence of each item
        self.events = 0
        self._next = len(ITEMS)
        self._ended = False

    async def __aenter__(self) -> Traffic:
        self._tasks = [
            asyncio.create_task(self._run(do)) for do in (self._read, self._read, self._write, self._event)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)

    async def _run(self, do: Callable[[np.random.Generator], Coroutine[Any, Any, None]]) -> None:
        generator = np.random.default_rng()
        while not self._ended:
            try:
                await do(generator)
                self.outcomes[f"{do.__name__} ok"] += 1
            except Unavailable as error:
                self.outcomes[f"{do.__name__} unavailable"] += 1
                self.outcomes[str(error)[:120]] += 1

    async def _read(self, generator: np.random.Generator) -> None:
        places = generator.permutation(len(ITEMS))[:500]
        least = self.committed[places].copy()
        got = await self._store.fetch(self._space, None, [ITEMS[i] for i in places])
        assert got.found.all()
        if not (got.records["sequence"] >= least).all():
            self.outcomes["read an older sequence"] += 1

    async def _write(self, generator: np.random.Generator) -> None:
        places = np.sort(generator.permutation(len(ITEMS))[:100])
        sequences = np.arange(self._next, self._next + 100)
        self._next += 100
        window = make_window(self._space, [ITEMS[i] for i in places], sequences.tolist())
        assert (await self._store.commit_window(window)).all()
        self.committed[places] = sequences

    async def _event(self, generator: np.random.Generator) -> None:
        number = self.events
        event = Event(
            event_id=str(number), user_id=f"user {number % 50}", item_id="item", timestamp_ms=1_000 + number
        )
        await self._behaviours.append([event])
        self.events += 1

    async def lost(self) -> int:
        """Acknowledged writes that are not there, or are older."""
        got = await self._store.fetch(self._space, None, ITEMS)
        return int((~got.found | (got.records["sequence"] < self.committed)).sum())


async def test_slots_move_while_rows_are_read_and_written(cluster: EmbeddedCluster, redis: Cluster) -> None:
    store, space = await filled(redis)
    behaviours = Behaviours(redis)
    await behaviours.check()
    family = keys.records(space.id, space.buckets)
    owners = [redis.slots.owner(slot) for slot in family.slots.tolist()]
    source, target = cluster.nodes[0], cluster.nodes[1]
    mine = [n for n, owner in enumerate(owners) if owner == ("127.0.0.1", source.port)][:MOVED_SHARDS]
    users = [keys.user(f"user {n}".encode())[1] for n in range(50)]
    slots = [int(family.slots[n]) for n in mine]
    slots += [slot for slot in map(key_slot, users) if redis.slots.owner(slot) == ("127.0.0.1", source.port)][
        :3
    ]
    async with Traffic(store, behaviours, space) as traffic:
        with Reshard(cluster, source, target) as reshard:
            for slot in dict.fromkeys(slots):
                reshard.begin(slot)
                for key in reshard.keys(slot):
                    before = sum(traffic.outcomes.values())
                    await asyncio.to_thread(reshard.move, key)
                    while sum(traffic.outcomes.values()) < before + 2:  # half moved, and used
                        await asyncio.sleep(0)
                while left := reshard.keys(slot):  # made on the source meanwhile
                    for key in left:
                        reshard.move(key)
                reshard.end(slot)
                await asyncio.sleep(0)
    bad = {what: n for what, n in traffic.outcomes.items() if not what.endswith(" ok")}
    assert not bad
    assert min(traffic.outcomes[f"{what} ok"] for what in ("_read", "_write", "_event")) > 3
    assert await traffic.lost() == 0
    assert (await behaviours.count()).behaviours == traffic.events
    assert redis.slots.owner(slots[0]) == ("127.0.0.1", target.port)


async def test_a_primary_is_killed_while_rows_are_read_and_written(cluster: EmbeddedCluster) -> None:
    settings = StoreSettings(wait_replicas=1, cluster_retry_s=1.0)
    async with connect(cluster.url, settings) as redis:
        assert isinstance(redis, Cluster)
        store, space = await filled(redis)
        behaviours = Behaviours(redis)
        victim = next(
            node for node in cluster.nodes if ("127.0.0.1", node.port) in redis.slots.slots_of_primaries()
        )
        async with Traffic(store, behaviours, space) as traffic:
            while min(traffic.outcomes[f"{what} ok"] for what in ("_read", "_write", "_event")) < 3:
                await asyncio.sleep(0.001)
            victim.kill()
            deadline = time.monotonic() + PATIENCE_S
            while ("127.0.0.1", victim.port) in redis.slots.slots_of_primaries():
                assert time.monotonic() < deadline, traffic.outcomes
                await asyncio.sleep(0.01)
            before = traffic.outcomes["_read ok"]
            while traffic.outcomes["_read ok"] < before + 3:  # reads recover by themselves
                assert time.monotonic() < deadline, traffic.outcomes
                await asyncio.sleep(0.01)
            cluster.restart(victim)  # comes back as a replica of the one that took its place
            before = traffic.outcomes["_write ok"]
            while traffic.outcomes["_write ok"] < before + 3:  # and writes have a replica to wait for again
                assert time.monotonic() < deadline, traffic.outcomes
                await asyncio.sleep(0.01)
        assert traffic.outcomes["read an older sequence"] == 0
        assert await traffic.lost() == 0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+cluster://me:p@w@a:1,b,[::1]:3?x=pw", "redis+cluster://a:1,b,::1:3"),
        ("rediss+cluster://:pw@a:1,b:2/0", "rediss+cluster://a:1,b:2/0"),
        ("redis+cluster://a:1,b:99999", "(unreadable URL)"),
    ],
)
def test_a_shown_cluster_has_neither_user_nor_query(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://:pw@a:1,,b:2",
        "redis+cluster://:pw@a:x",
        "redis+cluster://:pw@a:1/3",
    ],
)
def test_a_url_of_no_cluster_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        connect(url, StoreSettings())
    assert "pw" not in str(refused.value)


async def test_nodes_that_do_not_answer_are_unavailable() -> None:
    async with connect(
        "redis+cluster://127.0.0.1:1,127.0.0.1:2", StoreSettings(cluster_retry_s=0.1)
    ) as redis:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:[12]"):
            await Store(redis).spaces()
