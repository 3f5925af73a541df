"""A real cluster for a module's tests, and what is done to one: slots moved while it is used."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from redis import Redis

from param_server.cluster import Cluster
from param_server.connection import connect
from param_server.embedded_cluster import ClusterNode, EmbeddedCluster
from param_server.settings import StoreSettings


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Three primaries, each with a replica."""
    with EmbeddedCluster.start(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest_asyncio.fixture
async def redis(cluster: EmbeddedCluster) -> AsyncIterator[Cluster]:
    """A client of the emptied cluster."""
    client = connect(cluster.url, StoreSettings())
    assert isinstance(client, Cluster)
    async with client:
        for node in (await client.primaries()).values():
            await node.flushall()
        yield client


class Reshard:
    """Slots on their way from one node to another, step by step, as `redis-cli --cluster reshard` moves
    them."""

    def __init__(self, cluster: EmbeddedCluster, source: ClusterNode, target: ClusterNode) -> None:
        self._cluster = cluster
        self._from, self._to = source, target

    def __enter__(self) -> Reshard:
        self._stack = contextlib.ExitStack()
        clients = [self._stack.enter_context(contextlib.closing(n.client())) for n in self._cluster.nodes]
        self._clients = {node.id: client for node, client in zip(self._cluster.nodes, clients, strict=True)}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, slot: int) -> None:
        self._ask(self._to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._from.id)
        self._ask(self._from, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._to.id)

    def keys(self, slot: int) -> list[bytes]:
        found = self._ask(self._from, "CLUSTER", "GETKEYSINSLOT", slot, 100_000)
        assert isinstance(found, list)
        return found

    def move(self, key: bytes) -> None:
        self._ask(self._from, "MIGRATE", "127.0.0.1", self._to.port, key, 0, 5_000)

    def end(self, slot: int) -> None:
        for node in (self._to, self._from):
            self._ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self._to.id)

    def _ask(self, node: ClusterNode, *words: object) -> object:
        client: Redis = self._clients[node.id]
        return client.execute_command(*words)  # type: ignore[no-untyped-call]
