"""What is new in all partitions, for one consumer: a blocking read of a server, rounds of reads of a cluster.

A command of a cluster must keep to one slot, and each partition has its own: one XREADGROUP cannot wait for
several of them. A wait on each would take a connection per partition, and entries would be delivered to waits
whose worker is busy. So every node is asked for all of its partitions at once, again after a pause that grows
to 20 ms while nothing comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from param_server.cluster import Cluster
from param_server.commands import Commands, pack, slots_of
from param_server.connection import redis_errors
from param_server.server import Server
from param_server.stream_id import fields_of
from realtime_infer.delivery import Delivery
from realtime_infer.stream_keys import GROUP, Partition

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02


class PartitionReads:
    """consumer: its stable name in the group."""

    def __init__(self, stream: Server, consumer: bytes) -> None:
        self._stream = stream
        self._consumer = consumer
        self._error: Exception | None = None

    async def read(self, partitions: Sequence[Partition], each: int, wait_ms: int) -> list[Delivery]:
        """Up to `each` new entries of every partition; waits at most so long for the first.

        Where a node of a cluster fails, what the others gave is given first, and its error is raised by the
        next call: what was delivered must not be dropped. Raises Unavailable.
        """
        if not isinstance(self._stream, Cluster):
            return await self._block(partitions, each, wait_ms)
        async with redis_errors("read pushes"):
            error, self._error = self._error, None
            if error is not None:
                raise error
        words = (b"XREADGROUP", b"GROUP", GROUP, self._consumer, b"COUNT", b"%d" % each, b"STREAMS")
        names = [keys.pushes for keys in partitions]
        given = Commands([pack([*words, name, b">"]) for name in names], slots_of(names))
        loop = asyncio.get_running_loop()
        end, pause_s = loop.time() + wait_ms / 1000, _FIRST_PAUSE_S
        while True:
            async with redis_errors("read pushes"):
                replies = await self._stream.send_once(given)
                found: list[Delivery] = []
                for keys, reply in zip(partitions, replies, strict=True):
                    if isinstance(reply, Exception):
                        self._error = reply
                    else:
                        found += new_entries({keys.pushes: keys}, reply)
                if self._error is not None and not found:
                    error, self._error = self._error, None
                    raise error
            left = end - loop.time()
            if found or left <= 0:
                return found
            await asyncio.sleep(min(pause_s, left))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _block(self, partitions: Sequence[Partition], each: int, wait_ms: int) -> list[Delivery]:
        async with redis_errors("read pushes"):
            reply: Any = await self._stream.xreadgroup(
                GROUP.decode(),
                self._consumer.decode(),
                {keys.pushes: ">" for keys in partitions},
                each,
                wait_ms,
            )
        return new_entries({keys.pushes: keys for keys in partitions}, reply)


def new_entries(by_key: Mapping[bytes, Partition], reply: Any) -> list[Delivery]:
    """The entries of an XREADGROUP reply, in any of its shapes: streams in pairs or in a dict, fields too."""
    streams = reply.items() if isinstance(reply, dict) else reply or ()
    return [delivery for key, entries in streams for delivery in deliveries(by_key[key], entries, 1)]


def deliveries(keys: Partition, entries: Sequence[Any], count: int) -> list[Delivery]:
    """Entries that were delivered `count` times; without those that are gone."""
    return [
        Delivery(keys, entry_id, fields_of(fields), count)
        for entry_id, fields in entries
        if fields is not None
    ]
