"""The push stream as its workers see it: read in micro-batches, take over abandoned entries, settle.

An entry leaves the stream only when it is settled: dead letter, status, ack and removal in one script.
One consumer reads all partitions, so any number of workers share them, and none waits for a busy one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from contracts.errors import Unavailable
from param_server.commands import Commands, pack, slots_of
from param_server.connection import redis_errors
from param_server.round_trip import raise_error
from param_server.server import Server, ask, try_send
from realtime_infer.delivery import Delivery, Made, Settlement
from realtime_infer.partition_reads import PartitionReads, deliveries
from realtime_infer.partitions import Partitions
from realtime_infer.push_entry import ITEM_ID, SEQUENCE
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import GROUP, Partition
from realtime_infer.stream_scripts import ENCODING, SETTLE, Argument

_BLOCK_MS = 400  # a stop is noticed within it
_LOOK_FOR = 128
_MAX_REASON_CHARACTERS = 1_000


class PushQueue:
    """One consumer of the group. Raises Unavailable where the stream's server is gone."""

    def __init__(self, stream: Server, settings: EncoderSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._partitions = Partitions(stream, settings.stream_partitions)
        self._consumer = settings.consumer.encode()
        self._reads = PartitionReads(stream, self._consumer)
        self._held: deque[Delivery] = deque()  # read beyond what a batch took
        self._block_ms = _BLOCK_MS
        if isinstance(stream, Redis):
            timeout_s = stream.connection_pool.connection_kwargs.get("socket_timeout")
            # Half of the socket's timeout, or a server with nothing to say would look like one that is gone.
            if timeout_s is not None:
                self._block_ms = max(1, min(_BLOCK_MS, int(timeout_s * 500)))

    async def open(self) -> None:
        """Create the group where it is not there; it begins with the first entry ever pushed."""
        await self._partitions.check()
        async with redis_errors("create the consumer group"):
            partitions = await self._partitions.all()
            names = [keys.pushes for keys in partitions]
            lines = [pack([b"XGROUP", b"CREATE", name, GROUP, b"0", b"MKSTREAM"]) for name in names]
            replies = await try_send(self._stream, Commands(lines, slots_of(names)))
            raise_error([reply for reply in replies if not str(reply).startswith("BUSYGROUP")])

    async def read(
        self, size: int | None = None, *, fill: Callable[[], bool] = lambda: True
    ) -> list[Delivery]:
        """Up to `size` (batch_size) new entries of batch_bytes (one at least), staged payloads not fetched.

        Waits 0.4 s at most for the first, then window_ms for more, as long as the batch is to `fill`. Where
        the stream fails while it fills, the batch is what has come.
        """
        size = size or self._settings.batch_size
        if not self._held:
            await self._read(size, self._block_ms)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.window_ms / 1000
        while self._held and not self._full(size) and fill():
            left_ms = int((end - loop.time()) * 1000)
            if left_ms <= 0:
                break
            try:
                await self._read(size - len(self._held), min(left_ms, self._block_ms))
            except Unavailable:
                break
        return self.held(size)

    def held(self, size: int) -> list[Delivery]:
        """Of what was read already the next batch; nothing where nothing is left."""
        batch: list[Delivery] = []
        most_bytes = self._settings.batch_bytes
        while self._held and len(batch) < size:
            most_bytes -= self._held[0].payload_bytes
            if batch and most_bytes < 0:
                break
            batch.append(self._held.popleft())
        return batch

    async def fetch(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """The same with their staged payloads; one that is gone (settled by another) is as it was."""
        staged: dict[Partition, list[bytes]] = defaultdict(list)
        for delivery in deliveries:
            if delivery.staged:
                staged[delivery.partition].append(delivery.entry_id)
        if not staged:
            return list(deliveries)
        async with redis_errors("read staged payloads"):
            replies: list[list[bytes | None]] = await ask(
                self._stream, *((b"HMGET", keys.staged, *entry_ids) for keys, entry_ids in staged.items())
            )
        payloads = {
            (keys, entry_id): payload
            for (keys, entry_ids), values in zip(staged.items(), replies, strict=True)
            for entry_id, payload in zip(entry_ids, values, strict=True)
        }
        found = [payloads.get((delivery.partition, delivery.entry_id)) for delivery in deliveries]
        return [
            delivery if payload is None else delivery.with_payload(payload)
            for delivery, payload in zip(deliveries, found, strict=True)
        ]

    async def abandoned(self, min_idle_ms: int, *, own: bool = False) -> list[Delivery]:
        """Entries that some worker (own: this consumer's name) has held min_idle_ms, without their fields."""
        partitions = await self._partitions.all()
        idle = (b"IDLE", b"%d" % min_idle_ms) if min_idle_ms else ()
        of_whom = (self._consumer,) if own else ()
        words = (GROUP, *idle, b"-", b"+", b"%d" % _LOOK_FOR, *of_whom)
        async with redis_errors("look for abandoned entries"):
            replies = await ask(self._stream, *((b"XPENDING", keys.pushes, *words) for keys in partitions))
        return [
            Delivery(keys, entry_id, {}, int(times))
            for keys, pending in zip(partitions, replies, strict=True)
            for entry_id, _, _, times in pending
        ]

    async def claim(self, abandoned: Delivery, min_idle_ms: int) -> Delivery | None:
        """Take one entry over, unless another worker was faster or it is gone."""
        keys, entry_id = abandoned.partition, abandoned.entry_id
        async with redis_errors("claim an entry"):
            claimed: Any = await self._stream.xclaim(
                keys.pushes, GROUP, self._consumer, min_idle_ms, [entry_id]
            )
        entries = deliveries(keys, claimed, abandoned.deliveries + 1)
        return entries[0] if entries else None

    async def encoding(self, deliveries: Sequence[Delivery]) -> dict[str, Made]:
        """Mark the statuses of entries that a batch has begun with -> by item what its last record was of."""
        known: dict[Partition, list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            if delivery.known:
                known[delivery.partition].append(delivery)
        calls: list[tuple[list[bytes], list[Argument]]] = [
            (
                [keys.status(delivery.fields[ITEM_ID]) for delivery in of_it],
                [delivery.fields[SEQUENCE] for delivery in of_it],
            )
            for keys, of_it in known.items()
        ]
        async with redis_errors("mark pushes as encoding"):
            replies: list[list[bytes]] = await ENCODING.run_all(self._stream, calls) if calls else []
        made: dict[str, Made] = {}
        for of_it, reply in zip(known.values(), replies, strict=True):
            for delivery, sequence, content in zip(of_it, reply[::2], reply[1::2], strict=True):
                if sequence and content:
                    made[delivery.fields[ITEM_ID].decode("utf-8", "replace")] = Made(int(sequence), content)
        return made

    async def settle(self, settlements: Sequence[Settlement]) -> int:
        """End entries -> dead letters that had to go for new ones. Idempotent, so it is repeated as a whole
        after an error."""
        trimmed = 0
        partitions = len(await self._partitions.all())
        async with redis_errors("settle pushes"):
            for start in range(0, len(settlements), _LOOK_FOR):
                chunk = settlements[start : start + _LOOK_FOR]
                calls = [self._arguments(settlement, partitions) for settlement in chunk]
                replies: list[int] = await SETTLE.run_all(self._stream, calls)
                trimmed += sum(max(0, reply) for reply in replies)
        return trimmed

    def _arguments(self, settlement: Settlement, partitions: int) -> tuple[list[bytes], list[Argument]]:
        delivery, error = settlement.delivery, settlement.error
        keys, fields = delivery.partition, delivery.fields
        return [
            keys.pushes,
            keys.payload_bytes,
            keys.status(fields.get(ITEM_ID, b"")),
            keys.staged,
            keys.dead,
            keys.dead_staged,
            keys.dead_bytes,
        ], [
            GROUP,
            delivery.entry_id,
            fields[SEQUENCE] if delivery.known else b"",
            settlement.state.value,
            error.code if error else "",
            str(error)[:_MAX_REASON_CHARACTERS] if error else "",
            self._settings.push_status_ttl_s,
            -(-self._settings.max_dead_letters // partitions),
            -(-self._settings.max_dead_bytes // partitions),
            settlement.content if delivery.known else b"",
        ]

    def _full(self, size: int) -> bool:
        held = self._held
        return (
            len(held) >= size
            or sum(delivery.payload_bytes for delivery in held) >= self._settings.batch_bytes
        )

    async def _read(self, count: int, block_ms: int) -> None:
        """Hold what is new: about `count` entries, an equal share of every partition that has some."""
        partitions = await self._partitions.all()
        each = -(-count // len(partitions))
        self._held += await self._reads.read(partitions, each, block_ms)
