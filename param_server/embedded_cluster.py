"""A real Redis Cluster of our own on loopback ports, primaries and a replica of each: to try one out, for
tests and benchmarks. Every node is a process over a directory of its own; all are gone with the process
that started them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import RedisError
from redis.retry import Retry

from contracts.errors import Unavailable
from param_server.embedded import LAUNCHER, find_binary
from param_server.server_checks import ENTRIES_LIMIT, LISTPACK_ENTRIES, LISTPACK_VALUE, VALUE_LIMIT

_START_S = 30.0
_LOOK_S = 0.02
NODE_TIMEOUT_MS = 1_000


class ClusterNode:
    """One node. primary: the place of its primary among the nodes at the start, None for a primary."""

    def __init__(self, folder: Path, primary: int | None) -> None:
        self.folder = folder
        self.primary = primary
        self.id = secrets.token_hex(20)
        self.port, self.bus = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> Redis:
        """A client of this node alone; the caller closes it."""
        return Redis(port=self.port, socket_timeout=5.0, retry=Retry(NoBackoff(), 0))

    def start(self, binary: Path, extra_args: Sequence[str]) -> None:
        """Start the process over the node's files; wait() says when it answers."""
        command = [
            *(str(binary), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)),
            *("--logfile", "valkey.log", "--daemonize", "no", "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
            *(f"--{VALUE_LIMIT}", str(LISTPACK_VALUE), f"--{ENTRIES_LIMIT}", str(LISTPACK_ENTRIES)),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-port", str(self.bus), "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"),
            *extra_args,
        ]
        if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
            command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), *command]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


class EmbeddedCluster:
    """Running nodes: first the primaries, then the replicas. Also a context manager that stops them."""

    def __init__(self, nodes: list[ClusterNode], binary: Path, extra_args: Sequence[str]) -> None:
        self.nodes = nodes
        self._binary = binary
        self._extra_args = tuple(extra_args)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        extra_args: Sequence[str] = (),
        binary: Path | None = None,
    ) -> Self:
        """Start an empty cluster over `directory`, replicas: of each primary, and wait until all of it
        answers.

        Blocks for about a second. Raises Unavailable.
        """
        shutil.rmtree(directory, ignore_errors=True)
        nodes = []
        for i in range(primaries * (1 + replicas)):
            folder = directory.resolve() / f"node-{i}"
            folder.mkdir(parents=True)
            nodes.append(ClusterNode(folder, None if i < primaries else i % primaries))
        for node in nodes:
            (node.folder / "nodes.conf").write_text(_configuration(nodes, node, primaries))
        cluster = cls(nodes, binary or find_binary(), extra_args)
        try:
            for node in nodes:
                node.start(cluster._binary, cluster._extra_args)
            cluster.wait()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def restart(self, node: ClusterNode) -> None:
        """Start a node again that was killed; it finds its place by itself."""
        node.start(self._binary, self._extra_args)

    def wait(self) -> None:
        """Until every running node agrees that the cluster is whole and every replica follows its primary."""
        deadline = time.monotonic() + _START_S
        waiting = [node for node in self.nodes if node.running]
        while waiting:
            trouble = _trouble(waiting[0])
            if not trouble:
                waiting.pop(0)
            elif time.monotonic() > deadline or not waiting[0].running:
                raise Unavailable(f"the cluster's node in {waiting[0].folder} is not ready: {trouble}")
            else:
                time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End every node at once; what it held is of no further use."""
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _configuration(nodes: Sequence[ClusterNode], own: ClusterNode, primaries: int) -> str:
    """The nodes.conf with which a node knows all others from its first moment: no introductions to wait
    for."""
    bounds = [i * REDIS_CLUSTER_HASH_SLOTS // primaries for i in range(primaries + 1)]
    lines = []
    for i, node in enumerate(nodes):
        role, of, slots = "master", "-", f" {bounds[i]}-{bounds[i + 1] - 1}" if i < primaries else ""
        if node.primary is not None:
            role, of = "slave", nodes[node.primary].id
        role = f"myself,{role}" if node is own else role
        epoch = (i if node.primary is None else node.primary) + 1
        lines.append(f"{node.id} 127.0.0.1:{node.port}@{node.bus} {role} {of} 0 0 {epoch} connected{slots}\n")
    return "".join(lines) + f"vars currentEpoch {primaries} lastVoteEpoch 0\n"


def _trouble(node: ClusterNode) -> str:
    with contextlib.closing(node.client()) as client:
        try:
            told: dict[str, Any] = client.info("replication")
            state: dict[str, Any] = client.cluster("INFO")
        except (RedisError, OSError) as error:
            return str(error) or type(error).__name__
    if state["cluster_state"] != "ok":
        return "cluster_state is not ok"
    if told["role"] == "slave" and told["master_link_status"] != "up":
        return "it does not follow its primary yet"
    return ""


def _free_ports() -> tuple[int, int]:
    """Two loopback ports, of clients and of the nodes among themselves."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(two.getsockname()[1])
