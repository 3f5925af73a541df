"""The push stream as its workers see it: read in micro-batches, take over abandoned entries, settle.

An entry leaves the stream only when it is settled: dead letter, status, ack and removal in one script.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from contracts.errors import RepcenterError, Unavailable
from param_server.connection import redis_errors
from realtime_infer.push_entry import ITEM_ID, SEQUENCE
from realtime_infer.push_status import PushState
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import GROUP, Partition
from realtime_infer.stream_scripts import ENCODING, SETTLE, Argument

_BLOCK_MS = 400  # a stop is noticed within it
_LOOK_FOR = 128
_MAX_REASON_CHARACTERS = 1_000


@dataclass(frozen=True)
class Delivery:
    """One entry in the hands of this worker. deliveries: this one included."""

    entry_id: bytes
    fields: dict[bytes, bytes]
    deliveries: int = 1

    @property
    def pushed_ms(self) -> int:
        """When the stream's server accepted it."""
        return int(self.entry_id.partition(b"-")[0])


@dataclass(frozen=True)
class Settlement:
    """The end of one entry. error: why, where the state is DEAD."""

    delivery: Delivery
    state: PushState
    error: RepcenterError | None = None


class PushQueue:
    """One consumer of the group. Raises Unavailable where the stream's server is gone."""

    def __init__(self, stream: Redis, settings: EncoderSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._keys = Partition()
        self._consumer = settings.consumer.encode()
        timeout_s = stream.connection_pool.connection_kwargs.get("socket_timeout")
        # Half of the socket's timeout, or a server with nothing to say would look like one that is gone.
        self._block_ms = _BLOCK_MS if timeout_s is None else max(1, min(_BLOCK_MS, int(timeout_s * 500)))

    async def open(self) -> None:
        """Create the group where it is not there; it begins with the first entry ever pushed."""
        async with redis_errors("create the consumer group"):
            try:
                await self._stream.xgroup_create(self._keys.pushes, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self) -> list[Delivery]:
        """Up to batch_size new entries: waits 0.4 s at most for the first, then window_ms for more.

        Where the stream fails while the batch fills, the batch is what has come.
        """
        size = self._settings.batch_size
        batch = await self._read(size, self._block_ms)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.window_ms / 1000
        while batch and len(batch) < size and (left_ms := int((end - loop.time()) * 1000)) > 0:
            try:
                batch += await self._read(size - len(batch), min(left_ms, self._block_ms))
            except Unavailable:
                break
        return batch

    async def abandoned(self, min_idle_ms: int, *, own: bool = False) -> list[tuple[bytes, int]]:
        """Entries that some worker (own: this consumer's name) has held min_idle_ms: ids and deliveries."""
        consumer = self._consumer if own else None
        async with redis_errors("look for abandoned entries"):
            pending = await self._stream.xpending_range(
                self._keys.pushes, GROUP, "-", "+", _LOOK_FOR, consumer, min_idle_ms or None
            )
        return [(cast(bytes, entry["message_id"]), int(entry["times_delivered"])) for entry in pending]

    async def claim(self, entry_id: bytes, deliveries: int, min_idle_ms: int) -> Delivery | None:
        """Take one entry over, unless another worker was faster or it is gone."""
        async with redis_errors("claim an entry"):
            claimed = await self._stream.xclaim(
                self._keys.pushes, GROUP, self._consumer, min_idle_ms, [entry_id]
            )
        entries = _deliveries(cast(Any, claimed), deliveries + 1)
        return entries[0] if entries else None

    async def encoding(self, deliveries: Sequence[Delivery]) -> None:
        """Mark the statuses of entries that a batch has begun with."""
        known = [d.fields for d in deliveries if ITEM_ID in d.fields and SEQUENCE in d.fields]
        if known:
            keys = [self._keys.status(fields[ITEM_ID]) for fields in known]
            async with redis_errors("mark pushes as encoding"):
                await ENCODING.run(self._stream, keys, [fields[SEQUENCE] for fields in known])

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """End entries; idempotent, so it is repeated as a whole after an error."""
        async with redis_errors("settle pushes"):
            for start in range(0, len(settlements), _LOOK_FOR):
                chunk = settlements[start : start + _LOOK_FOR]
                replies = await SETTLE.run_many(self._stream, [self._arguments(s) for s in chunk])
                for reply in replies:
                    if isinstance(reply, Exception):
                        raise reply

    def _arguments(self, settlement: Settlement) -> tuple[list[bytes], list[Argument]]:
        fields, error = settlement.delivery.fields, settlement.error
        keys = [
            self._keys.pushes,
            self._keys.payload_bytes,
            self._keys.status(fields.get(ITEM_ID, b"")),
            self._keys.dead,
        ]
        return keys, [
            GROUP,
            settlement.delivery.entry_id,
            fields.get(SEQUENCE, b"") if ITEM_ID in fields else b"",
            settlement.state.value,
            error.code if error else "",
            str(error)[:_MAX_REASON_CHARACTERS] if error else "",
            self._settings.push_status_ttl_s,
            self._settings.max_dead_letters,
        ]

    async def _read(self, count: int, block_ms: int) -> list[Delivery]:
        async with redis_errors("read pushes"):
            reply: Any = await self._stream.xreadgroup(
                GROUP.decode(), self._consumer.decode(), {self._keys.pushes: ">"}, count, block_ms
            )
        streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or ()]
        return [delivery for entries in streams for delivery in _deliveries(entries, 1)]


def _deliveries(
    entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]], deliveries: int
) -> list[Delivery]:
    return [Delivery(entry_id, fields, deliveries) for entry_id, fields in entries if fields is not None]
