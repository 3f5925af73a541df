"""Pushes and windows on a real cluster, beside its tables: the whole way, slots that move, a failover."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from contracts.errors import NotPermitted, Unavailable
from contracts.items import Item
from contracts.space import SHARDS
from param_server.access import ROLES
from param_server.cache import CacheLimits, RowCache
from param_server.cluster import Cluster
from param_server.commands import slots_of
from param_server.connection import connect
from param_server.embedded_cluster import ClusterNode, EmbeddedCluster
from param_server.keys import records as record_keys
from param_server.offline import OfflineTable
from param_server.server import ask, failed_over, home
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.stream_id import fields_of
from param_server.window_stream import window_stream
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.offline_check import check_offline
from realtime_infer.partition_reads import PartitionReads
from realtime_infer.partitions import DEFAULT_PARTITIONS
from realtime_infer.push_status import PushState, Receipt
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import GROUP, Partition
from tests.encoder_bundle import picture
from tests.param_server.clusters import Reshard
from tests.realtime_infer.sinks import follows, quick, sinking
from tests.realtime_infer.workers import ended, until, working

ITEMS = [f"item {n}" for n in range(60)]
PASSWORD = "of-sixteen-or-more"
ALL = [Partition(number) for number in range(DEFAULT_PARTITIONS)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Three primaries, each with a replica; every write is on disk before its reply."""
    folder = tmp_path_factory.mktemp("cluster")
    with EmbeddedCluster.start(folder, extra_args=("--appendfsync", "always")) as running:
        yield running


@pytest.fixture
def settings(cluster: EmbeddedCluster, tmp_path: Path) -> StoreSettings:
    return StoreSettings(redis_url=cluster.url, stream_url=None, var_dir=tmp_path)


@pytest_asyncio.fixture
async def stream(settings: StoreSettings) -> AsyncIterator[Cluster]:
    """A client of the emptied cluster."""
    client = connect(settings.redis_url or "", settings)
    assert isinstance(client, Cluster)
    async with client:
        for node in (await client.primaries()).values():
            await node.flushall()
        yield client


def titled(item_id: str, title: str, large: bool = False) -> Item:
    return Item(
        item_id, {"title": title}, image=picture((200, 30, 30), side=60, kind="BMP") if large else None
    )


async def pushed(ingest: Ingest, title: str) -> dict[str, Receipt]:
    """Every item once; some with a payload that is staged."""
    items = [titled(item_id, title, large=n % 7 == 0) for n, item_id in enumerate(ITEMS)]
    receipts = await asyncio.gather(*(ingest.push(item) for item in items))
    return {receipt.item_id: receipt for receipt in receipts}


async def sequences(store: Store, encoder: Encoder) -> dict[str, int]:
    found = await store.sequences(encoder.space, ITEMS)
    return dict(zip(ITEMS, found.tolist(), strict=True))


async def test_from_push_to_row_file_and_cache(
    cluster: EmbeddedCluster,
    stream: Cluster,
    settings: StoreSettings,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    tmp_path: Path,
) -> None:
    ingest, store = Ingest(stream, encoder_settings), Store(stream)
    await store.create_space(encoder.space)
    first = await pushed(ingest, "Heat")
    owners = stream.slots.owners(slots_of([keys.pushes for keys in ALL]))
    assert len(set(owners.tolist())) == 3
    assert (await ingest.backlog()).entries == len(ITEMS)
    cache = RowCache(store, stream, CacheLimits(1 << 20, bound_s=10.0), 0.5)
    cache.use(encoder.space, None)
    table = OfflineTable(str(tmp_path / "offline"))
    async with sinking(quick(tmp_path / "offline"), settings):
        await follows(table, encoder.space)
        async with working(encoder_settings, settings):
            statuses = await ended(ingest, ITEMS)
            assert {status.state for status in statuses} == {PushState.SCOREABLE}, statuses
            assert await sequences(store, encoder) == {i: first[i].sequence for i in ITEMS}
            held = await cache.fetch(encoder.space, None, ITEMS)
            assert held.found.all()
            second = await pushed(ingest, "Alien")
            last = await ingest.delete(ITEMS[0])
            assert last.sequence > second[ITEMS[0]].sequence > first[ITEMS[0]].sequence
            await ended(ingest, ITEMS)

            async def renewed() -> bool:
                reads = cache.counts().misses["content"]
                rows = await cache.fetch(encoder.space, None, ITEMS[1:])
                newest = [second[item_id].sequence for item_id in ITEMS[1:]]
                assert cache.counts().misses["content"] == reads  # told by the windows, not read again
                return bool(rows.records["sequence"].tolist() == newest)

            await until(renewed)
        assert (await ingest.backlog()).entries == (await ingest.backlog()).payload_bytes == 0

        async def whole() -> bool:
            check = await check_offline(stream, stream, table, encoder.space)
            return check.agrees and check.in_flight == 0

        await until(whole)
    assert cache.counts().resyncs == 0
    await cache.close()


async def test_pushes_of_an_item_lie_in_order_in_its_partition(
    stream: Cluster, encoder_settings: EncoderSettings
) -> None:
    ingest = Ingest(stream, encoder_settings)
    await asyncio.gather(*(ingest.push(titled(ITEMS[n % 20], str(n))) for n in range(60)))
    for keys in ALL:
        (found,) = await ask(stream, (b"XRANGE", keys.pushes, b"-", b"+"))
        lying = [fields_of(fields) for _, fields in found]
        numbers = [int(fields[b"s"]) for fields in lying]
        assert numbers == sorted(set(numbers))
        assert {Partition.of(fields[b"i"], len(ALL)) for fields in lying} <= {keys}


async def test_partitions_move_while_items_are_pushed_and_encoded(
    cluster: EmbeddedCluster,
    stream: Cluster,
    settings: StoreSettings,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
) -> None:
    ingest, store = Ingest(stream, encoder_settings), Store(stream)
    await store.create_space(encoder.space)
    await pushed(ingest, "0")
    slots = slots_of([keys.pushes for keys in ALL])
    source, target = cluster.nodes[0], cluster.nodes[1]
    mine = [int(s) for s in slots if stream.slots.owner(int(s)) == ("127.0.0.1", source.port)]
    assert mine
    newest: dict[str, Receipt] = {}
    async with working(encoder_settings, settings):
        with Reshard(cluster, source, target) as reshard:
            for n, slot in enumerate(mine):
                reshard.begin(slot)
                pushing = asyncio.create_task(pushed(ingest, f"{n} Heat"))
                while left := reshard.keys(slot):
                    for key in left:
                        await asyncio.to_thread(reshard.move, key)
                reshard.end(slot)
                newest = await pushing
        statuses = await ended(ingest, ITEMS)
        assert {status.state for status in statuses} == {PushState.SCOREABLE}, statuses
    assert await sequences(store, encoder) == {i: newest[i].sequence for i in ITEMS}
    assert stream.slots.owner(mine[0]) == ("127.0.0.1", target.port)


async def replaced(stream: Cluster, victim: ClusterNode) -> None:
    """Until another node has the slots of one that was killed."""

    async def gone() -> bool:
        return ("127.0.0.1", victim.port) not in await stream.primaries()

    await until(gone)


def owner(cluster: EmbeddedCluster, stream: Cluster, keys: Partition) -> ClusterNode:
    address = stream.slots.owner(int(slots_of([keys.pushes])[0]))
    return next(node for node in cluster.nodes if ("127.0.0.1", node.port) == address)


async def test_roles_are_enough_on_a_cluster(
    cluster: EmbeddedCluster,
    stream: Cluster,
    settings: StoreSettings,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
) -> None:
    """Pushes and the worker as the encoder's user, copies of rows as the scorer's, who writes nothing."""
    for node in cluster.nodes:
        with contextlib.closing(node.client()) as client:
            for role in ROLES.values():
                words = ["ACL", "SETUSER", role.user, *role.rules(PASSWORD).split()]
                client.execute_command(*words)  # type: ignore[no-untyped-call]
    urls = {name: cluster.url.replace("//", f"//{role.user}:{PASSWORD}@") for name, role in ROLES.items()}
    encoding = settings.model_copy(update={"redis_url": urls["encoder"], "wait_replicas": 1})
    async with connect(urls["encoder"], encoding) as ours, connect(urls["scorer"], settings) as theirs:
        ingest, store = Ingest(ours, encoder_settings), Store(ours)
        await store.create_space(encoder.space)
        cache = RowCache(Store(theirs), theirs, CacheLimits(1 << 20), 0.5)
        cache.use(encoder.space, None)
        async with working(encoder_settings, encoding):
            await pushed(ingest, "Heat")
            statuses = await ended(ingest, ITEMS)
            assert {status.state for status in statuses} == {PushState.SCOREABLE}, statuses
        await until(lambda: _answer(cache.lag_s < 1.0))
        assert (await cache.fetch(encoder.space, None, ITEMS)).found.all()
        assert None not in await ask(stream, *((b"GET", keys.node) for keys in ALL))
        with pytest.raises(NotPermitted, match="may not run"):
            await Ingest(theirs, encoder_settings).push(titled("item", "Heat"))
        await cache.close()


async def test_what_one_node_refuses_does_not_drop_what_others_gave(
    cluster: EmbeddedCluster, stream: Cluster, encoder_settings: EncoderSettings
) -> None:
    ingest, reads = Ingest(stream, encoder_settings), PartitionReads(stream, b"reader")
    await pushed(ingest, "Heat")
    lacking = {keys for keys in ALL if owner(cluster, stream, keys) is owner(cluster, stream, ALL[0])}
    for keys in set(ALL) - lacking:  # the group is there on the other nodes
        await stream.xgroup_create(keys.pushes, GROUP, id="0")
    found = await reads.read(ALL, 100, 1_000)
    assert {delivery.partition for delivery in found} == set(ALL) - lacking
    assert len(found) == sum(Partition.of(i.encode(), len(ALL)) not in lacking for i in ITEMS)
    with pytest.raises(Unavailable, match="NOGROUP"):
        await reads.read(ALL, 100, 1_000)


async def test_a_primary_is_killed_and_nothing_acknowledged_is_lost(
    cluster: EmbeddedCluster,
    stream: Cluster,
    settings: StoreSettings,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
) -> None:
    """With WAIT on: every item's newest acknowledged push is what the table shows in the end."""
    careful = settings.model_copy(update={"wait_replicas": 1, "cluster_retry_s": 1.0})
    newest: dict[str, Receipt] = {}
    refused, rounds, ending = 0, 0, False

    async def push_all(ingest: Ingest) -> None:
        nonlocal refused, rounds
        while not ending:
            items = [titled(item_id, f"{rounds} Heat", large=n % 7 == 0) for n, item_id in enumerate(ITEMS)]
            for receipt in await asyncio.gather(*map(ingest.push, items), return_exceptions=True):
                if isinstance(receipt, Receipt):
                    newest[receipt.item_id] = receipt
                else:
                    assert isinstance(receipt, Unavailable), receipt
                    refused += 1
            rounds += 1

    async with connect(cluster.url, careful) as client:
        ingest, store = Ingest(client, encoder_settings), Store(stream)
        await store.create_space(encoder.space)
        async with working(encoder_settings, careful):
            pushing = asyncio.create_task(push_all(ingest))
            await until(lambda: _answer(rounds >= 1))
            victim = owner(cluster, stream, ALL[0])
            victim.kill()
            await replaced(stream, victim)
            cluster.restart(victim)  # comes back as a replica, for which writes can wait
            await asyncio.to_thread(cluster.wait)
            before = rounds
            await until(lambda: _answer(rounds >= before + 2))
            ending = True
            await pushing
            assert refused
            assert len(newest) == len(ITEMS)
            statuses = await ended(ingest, ITEMS)
            assert {status.state for status in statuses} == {PushState.SCOREABLE}, statuses
    stored = await sequences(store, encoder)
    assert [i for i in ITEMS if stored[i] < newest[i].sequence] == []
    assert len(await asyncio.to_thread(_dead, cluster)) == 0


async def test_numbers_that_a_failover_lost_are_not_given_to_other_content(
    cluster: EmbeddedCluster,
    stream: Cluster,
    settings: StoreSettings,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
) -> None:
    """A push that no replica had is in the table already when its primary dies: the next one must win."""
    ingest, store = Ingest(stream, encoder_settings), Store(stream)
    await store.create_space(encoder.space)
    victim = owner(cluster, stream, ALL[0])
    family = record_keys(encoder.space.id, encoder.space.buckets)
    held = family.slots[family.buckets_of([i.encode() for i in ITEMS]) % SHARDS].tolist()
    item_id = next(
        item_id
        for item_id, slot in zip(ITEMS, held, strict=True)
        if stream.slots.owner(int(slot)) != ("127.0.0.1", victim.port)
        and owner(cluster, stream, Partition.of(item_id.encode(), len(ALL))) is victim
    )
    async with working(encoder_settings, settings):
        await ingest.push(titled(item_id, "Heat"))
        await ended(ingest, [item_id])
        replicas = [n for n in cluster.nodes if n.running and await asyncio.to_thread(_follows, n, victim)]
        for node in replicas:
            os.kill(node.pid, signal.SIGSTOP)
        await stream.node(("127.0.0.1", victim.port)).client_kill_filter(_type="replica")  # and so behind
        lost = await ingest.push(titled(item_id, "Alien"))
        await ended(ingest, [item_id])
        assert int((await store.sequences(encoder.space, [item_id]))[0]) == lost.sequence
        victim.kill()
        for node in replicas:
            os.kill(node.pid, signal.SIGCONT)
        await replaced(stream, victim)
        (counted,) = await ask(stream, (b"GET", Partition.of(item_id.encode(), len(ALL)).sequence))
        assert int(counted) < lost.sequence  # it is lost, or this test shows nothing
        receipt = await ingest.push(titled(item_id, "Casablanca"))
        assert receipt.sequence > lost.sequence
        (status,) = await ended(ingest, [item_id])
        assert (status.state, status.sequence) == (PushState.SCOREABLE, receipt.sequence)
    assert int((await store.sequences(encoder.space, [item_id]))[0]) == receipt.sequence
    cluster.restart(victim)
    await asyncio.to_thread(cluster.wait)


async def test_a_failover_makes_copies_and_files_begin_anew(
    cluster: EmbeddedCluster, stream: Cluster, settings: StoreSettings, encoder: Encoder, tmp_path: Path
) -> None:
    """Nothing is lost here, but nobody can know: a window may have gone with the node before it was read."""
    store, space = Store(stream), encoder.space
    await store.create_space(space)
    cache = RowCache(store, stream, CacheLimits(1 << 20, bound_s=1.0), 0.5)
    cache.use(space, None)
    table = OfflineTable(str(tmp_path / "offline"))
    async with sinking(quick(tmp_path / "offline"), settings) as sink:
        await follows(table, space)
        await until(lambda: _answer(cache.lag_s < 1.0))
        key = window_stream(space.id)
        before = home(stream, key)
        assert before is not None
        victim = next(node for node in cluster.nodes if node.port == before[1])
        victim.kill()
        await replaced(stream, victim)
        assert failed_over(stream, before)
        assert not failed_over(stream, home(stream, key))
        await until(lambda: _answer(cache.counts().resyncs == 1))

        async def healed() -> bool:
            text = sink.metrics.expose().decode()
            return f'repcenter_sink_gaps_healed_total{{space="{space.id}"}} 1.0' in text

        await until(healed)
    await cache.close()
    cluster.restart(victim)
    await asyncio.to_thread(cluster.wait)


async def _answer(answer: bool) -> bool:
    return answer


def _dead(cluster: EmbeddedCluster) -> list[bytes]:
    """Keys of dead letters on any node."""
    found: list[bytes] = []
    for node in cluster.nodes:
        with contextlib.closing(node.client()) as client:
            found += [key for key in client.keys("rc2:{p*:dead") if isinstance(key, bytes)]
    return found


def _follows(node: ClusterNode, primary: ClusterNode) -> bool:
    with contextlib.closing(node.client()) as client:
        return int(client.info("replication").get("master_port", 0)) == primary.port
