"""Pushes on their way to the stream: those that come while a round trip is under way share the next one.

So the cost of a round trip and of its wait for the disk is paid once for many, and a push alone waits for
nobody. One round trip is under way at a time: pushes reach the stream in the order in which they came.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.errors import Conflict, Overloaded, RepcenterError, Unavailable, shown
from contracts.items import check_item_id
from realtime_infer.partitions import Partitions
from realtime_infer.push_status import Receipt
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import Partition
from realtime_infer.stream_scripts import ACCEPT, Argument, Call, Script

INLINE_BYTES = 4_096  # a larger payload lies beside its entry, which then stays light to list
MOST_PUSHES, MOST_BYTES = 512, 16 << 20  # of one round trip, or one unit alone
_DIGEST_BYTES = 16  # the script cuts by it
RunAll = Callable[[Script, Sequence[Call], str], Awaitable[list[Any]]]
Outcome = Receipt | RepcenterError


@dataclass(frozen=True)
class Write:
    """One push or deletion to be accepted. key: its idempotency key, of this item alone."""

    item_id: str
    payload: bytes
    key: str | None = None


@dataclass(frozen=True)
class _Unit:
    writes: Sequence[Write]
    outcomes: asyncio.Future[list[Outcome]]

    @property
    def payload_bytes(self) -> int:
        return sum(len(write.payload) for write in self.writes)


class Acceptor:
    """run: a script on the stream, several calls at once -> their replies once all of it is on disk."""

    def __init__(
        self,
        partitions: Partitions,
        settings: EncoderSettings,
        run: RunAll,
        sent: Callable[[int], None] = lambda pushes: None,
    ) -> None:
        """sent: called with the number of pushes of each round trip."""
        self._partitions = partitions
        self._settings = settings
        self._run = run
        self._sent = sent
        self._waiting: deque[_Unit] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def accept(self, writes: Sequence[Write]) -> list[Outcome]:
        """What became of each, in order; all go together, in the order given.

        An error among them says that this one was not accepted (Overloaded, Conflict) or that it is unknown
        (Unavailable). Once one finds its partition full, so do all that follow it there: sent again together,
        they overtake nothing. Raises Unavailable where the server is gone.
        """
        unit = _Unit(writes, asyncio.get_running_loop().create_future())
        self._waiting.append(unit)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return await unit.outcomes

    async def _send_all(self) -> None:
        while self._waiting:
            units = self._next()
            try:
                outcomes = await self._send(units)
            except Exception as error:
                for unit in units:
                    if not unit.outcomes.done():  # its caller may have given up
                        unit.outcomes.set_exception(error)
            else:
                for unit, result in zip(units, outcomes, strict=True):
                    if not unit.outcomes.done():
                        unit.outcomes.set_result(result)

    def _next(self) -> list[_Unit]:
        units = [self._waiting.popleft()]
        pushes, size = len(units[0].writes), units[0].payload_bytes
        while self._waiting:
            unit = self._waiting[0]
            pushes, size = pushes + len(unit.writes), size + unit.payload_bytes
            if pushes > MOST_PUSHES or size > MOST_BYTES:
                break
            units.append(self._waiting.popleft())
        return units

    async def _send(self, units: Sequence[_Unit]) -> list[list[Outcome]]:
        count = len(await self._partitions.all())
        settings = self._settings
        limits: list[Argument] = [
            *share(settings, count),
            INLINE_BYTES,
            -(-settings.max_idempotency_keys // count),
            round(settings.idempotency_ttl_s * 1000),
        ]
        places: dict[Partition, list[tuple[int, int]]] = defaultdict(list)
        calls: dict[Partition, tuple[list[bytes], list[Argument]]] = {}
        for u, unit in enumerate(units):
            for w, write in enumerate(unit.writes):
                raw_id = write.item_id.encode()
                partition = Partition.of(raw_id, count)
                if partition not in calls:
                    calls[partition] = (_keys(partition), list(limits))
                keys, args = calls[partition]
                keys.append(partition.status(raw_id))
                args += (raw_id, write.payload, u, *_digests(raw_id, write))
                places[partition].append((u, w))
        replies = await self._run(ACCEPT, list(calls.values()), "accept pushes")
        self._sent(sum(len(unit.writes) for unit in units))
        outcomes: list[dict[int, Outcome]] = [{} for _ in units]
        for partition, reply in zip(calls, replies, strict=True):
            for i, (u, w) in enumerate(places[partition]):
                write = units[u].writes[w]
                outcomes[u][w] = self._outcome(
                    partition, write, reply if isinstance(reply, Exception) else reply[i]
                )
        return [
            [of_unit[w] for w in range(len(unit.writes))]
            for unit, of_unit in zip(units, outcomes, strict=True)
        ]

    def _outcome(self, partition: Partition, write: Write, reply: Any) -> Outcome:
        if isinstance(reply, RepcenterError):
            return reply
        if isinstance(reply, Exception):
            return Unavailable(f"accept a push: {reply}")
        match int(reply[0]):
            case -1:
                return full(partition, reply, self._settings)
            case -2:
                named = f"{shown(write.key)} of item {shown(write.item_id)}"
                reason = f"was given with other content, which has sequence {int(reply[1])}"
                return Conflict(f"idempotency_key: {named} {reason}")
            case sequence:
                return Receipt(write.item_id, sequence, replayed=len(reply) > 1)


def check_key(value: object) -> str:
    """A usable idempotency key: bounded like an id."""
    return check_item_id(value, "idempotency_key")


def full(partition: Partition, reply: Sequence[int], settings: EncoderSettings) -> Overloaded:
    """What a script that answered {-1, entries, bytes} means."""
    return Overloaded(
        f"{reply[1]} pushes of {reply[2]} bytes wait already in partition {partition.number}",
        settings.retry_after_s,
    )


def share(settings: EncoderSettings, partitions: int) -> tuple[int, int]:
    """Of the backlog's bounds what one partition may hold: entries, bytes."""
    return -(-settings.max_backlog // partitions), -(-settings.max_backlog_bytes // partitions)


def _keys(partition: Partition) -> list[bytes]:
    return [
        partition.sequence,
        partition.pushes,
        partition.payload_bytes,
        partition.receipts,
        partition.staged,
        partition.node,
        partition.gaps,
        partition.receipt_end,
    ]


def _digests(raw_id: bytes, write: Write) -> tuple[bytes, bytes]:
    """Of the item with its key, and of the payload; both empty where there is no key."""
    if write.key is None:
        return b"", b""
    named = len(raw_id).to_bytes(2, "little") + raw_id + write.key.encode()
    return _digest(named), _digest(write.payload)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
