"""The durable push stream as its doors see it: accept, delete, look up. A receipt means: on disk.

Per-item order is the order of the sequence numbers, which one script gives while it adds the entry. An item
has one partition and so one counter; numbers of items of different partitions say nothing about each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from contracts.errors import InvalidInput, NotFound, Overloaded, RepcenterError, Unavailable
from contracts.items import Item, check_item, check_item_id
from param_server.cluster import Cluster
from param_server.commands import pack
from param_server.connection import redis_errors
from param_server.round_trip import raise_error
from param_server.server import Server, ask
from param_server.server_checks import Durability, check_durable, check_policy
from realtime_infer.acceptor import Acceptor, Outcome, Write, check_key, full, share
from realtime_infer.fetch import PictureSources
from realtime_infer.partitions import Partitions
from realtime_infer.push_entry import encode_delete, encode_push
from realtime_infer.push_status import PushState, PushStatus, Receipt
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import Partition
from realtime_infer.stream_scripts import WATERMARK, Argument, Call, Script

MAX_SEQUENCE = 2**53 - 1  # the scripts count in doubles
_FIRST_LOOK_S, _NEXT_LOOK_S = 0.005, 0.05
_SLACK = 1_024


@dataclass(frozen=True)
class Backlog:
    """Accepted pushes without an end yet, the bytes of their payloads, how long the oldest waits."""

    entries: int
    payload_bytes: int
    age_s: float = 0.0


class Ingest:
    """One push stream. stream: a client of the stream's server; it stays the caller's to close."""

    def __init__(
        self,
        stream: Server,
        settings: EncoderSettings,
        sent: Callable[[int], None] = lambda pushes: None,
    ) -> None:
        """sent: called with the number of pushes of each round trip."""
        self._stream = stream
        self._settings = settings
        self._pictures = PictureSources(settings.fetch_limits())  # asked what is allowed; the worker fetches
        self.partitions = Partitions(stream, settings.stream_partitions)
        self._acceptor = Acceptor(self.partitions, settings, self._durably_all, sent)
        self._durability: Durability | None = None
        self._in_flight = 0

    async def check(self) -> Durability:
        """Ask the server whether it answers and keeps what it acknowledges; Unavailable where not."""
        try:
            await self.partitions.check()
            await check_policy(self._stream)
            self._durability = await check_durable(self._stream)
        except Unavailable:
            self._durability = None  # the next push asks again before it is accepted
            raise
        return self._durability

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place among the pushes in flight, to be taken before a body is read; Overloaded where none is."""
        if self._in_flight >= self._settings.max_in_flight:
            raise Overloaded(f"{self._in_flight} pushes are in flight", self._settings.retry_after_s)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def write(self, item: Item, key: str | None = None) -> Write:
        """A checked push, to be accepted. key: its idempotency key. Raises InvalidInput or TooLarge."""
        self._pictures.check(check_item(item))
        if item.image is not None and not item.image:
            raise InvalidInput("image", item.image, "is empty")
        if not item.has_picture and not any(text.strip() for text in item.text.values()):
            raise InvalidInput("item", item.item_id, "needs a picture or a text that is not blank")
        return Write(item.item_id, encode_push(item), None if key is None else check_key(key))

    def write_delete(self, item_id: str, key: str | None = None) -> Write:
        """A checked deletion, likewise."""
        return Write(check_item_id(item_id), encode_delete(), None if key is None else check_key(key))

    async def accept(self, writes: Sequence[Write]) -> list[Outcome]:
        """What became of each, in order, once all of it is on disk: `Acceptor.accept`. Takes no place."""
        return await self._acceptor.accept(writes)

    async def push(self, item: Item, key: str | None = None, *, admitted: bool = False) -> Receipt:
        """Accept a new or changed item. The receipt is given once the push is on disk.

        key: the same one with the same content gives the same receipt for a time. admitted: the caller holds
        a place of admit() already.

        Raises InvalidInput or TooLarge (nothing was accepted), Overloaded (backlog full), Conflict (the key
        was given with other content), Unavailable (whether it was accepted is unknown: push again, the newer
        one wins).
        """
        write = self.write(item, key)
        with nullcontext() if admitted else self.admit():
            return await self._receipt(write)

    async def delete(self, item_id: str, key: str | None = None) -> Receipt:
        """Accept a deletion: after it is done the item is a tombstone. Raises as push() does."""
        write = self.write_delete(item_id, key)
        with self.admit():
            return await self._receipt(write)

    async def status(self, item_id: str) -> PushStatus:
        """The newest push's status; NotFound where none is remembered."""
        raw_id = check_item_id(item_id).encode()
        key = (await self.partitions.of(raw_id)).status(raw_id)
        names = ("state", "sequence", "reason", "updated")
        async with redis_errors("read a push status"):
            values = await cast(Awaitable[list[bytes | None]], self._stream.hmget(key, list(names)))
        state, sequence, reason, updated = (value.decode() if value is not None else "" for value in values)
        if not state:
            raise NotFound("push of item", item_id)
        return PushStatus(item_id, PushState(state), int(sequence), reason, int(updated))

    async def wait(self, item_id: str, timeout_s: float) -> PushStatus:
        """The status once it is final, or the last one seen after timeout_s; NotFound as status()."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        pause = _FIRST_LOOK_S
        while True:
            status = await self.status(item_id)
            left = deadline - asyncio.get_running_loop().time()
            if status.state.final or left <= 0:
                return status
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _NEXT_LOOK_S)

    async def backlog(self) -> Backlog:
        """How much waits for a worker."""
        partitions = await self.partitions.all()
        async with redis_errors("read the backlog"):
            replies = await ask(
                self._stream,
                *((b"XLEN", keys.pushes) for keys in partitions),
                *((b"GET", keys.payload_bytes) for keys in partitions),
                *((b"XRANGE", keys.pushes, b"-", b"+", b"COUNT", b"1") for keys in partitions),
            )
        count = len(partitions)
        waiting, sizes, first = replies[:count], replies[count : 2 * count], replies[2 * count :]
        oldest = [int(entries[0][0].partition(b"-")[0]) for entries in first if entries]
        age_s = max(0.0, time.time() - min(oldest) / 1000) if oldest else 0.0
        return Backlog(sum(waiting), sum(int(size or 0) for size in sizes), age_s)

    async def watermark(self, at_least: int = 0) -> int:
        """A sequence number of no push: above all given so far (and `at_least`), below all that follow.

        Take it before the snapshot of a catalogue is taken; then every push that the snapshot cannot
        hold wins over the snapshot's rows. InvalidInput where at_least leaves no numbers to give.
        """
        if not 0 <= at_least < MAX_SEQUENCE:
            raise InvalidInput("at_least", at_least, f"must be 0 to {MAX_SEQUENCE - 1}")
        slack = 0
        while True:  # again where a partition was given pushes beyond the mark in the meantime
            least = max(at_least, *(await self.counters()).values()) + slack
            for keys in await self.partitions.all():
                args: list[Argument] = [least]
                reply = await self.durably(WATERMARK, [keys.sequence, keys.gaps], args, "take a watermark")
                if int(reply) < 0:
                    break
            else:
                return least + 1
            slack = 2 * slack or _SLACK

    async def counters(self) -> dict[Partition, int]:
        """The newest number that each partition has given, 0 where none."""
        partitions = await self.partitions.all()
        async with redis_errors("read the counters of sequences"):
            values = await ask(self._stream, *((b"GET", keys.sequence) for keys in partitions))
        return {keys: int(value or 0) for keys, value in zip(partitions, values, strict=True)}

    async def _receipt(self, write: Write) -> Receipt:
        (outcome,) = await self._acceptor.accept([write])
        if isinstance(outcome, RepcenterError):
            raise outcome
        return outcome

    def full(self, partition: Partition, reply: Sequence[int]) -> Overloaded:
        """What a script that answered {-1, entries, bytes} means."""
        return full(partition, reply, self._settings)

    async def share(self) -> tuple[int, int]:
        """Of the backlog's bounds what one partition may hold: entries, bytes."""
        return share(self._settings, len(await self.partitions.all()))

    async def durably(
        self, script: Script, keys: Sequence[bytes], args: Sequence[Argument], what: str
    ) -> Any:
        """Run a script on one partition's keys -> its reply, once what it wrote is on disk, and in as many
        replicas as wait_replicas says."""
        (reply,) = await self._durably_all(script, [(keys, args)], what)
        return reply

    async def _durably_all(self, script: Script, calls: Sequence[Call], what: str) -> list[Any]:
        """Several at once, of a server in one round trip; an error in place of a reply where only that call
        failed."""
        durability = self._durability or await self.check()
        timeout_ms = round(self._settings.fsync_timeout_s * 1000)
        # WAITAOF waits for the writes of its own connection
        sync = [pack([b"WAITAOF", b"1", b"0", b"%d" % timeout_ms])] if durability == "waitaof" else []

        async def write(some: Sequence[Call]) -> list[Any]:
            async with redis_errors(what):
                replies = await script.write(self._stream, some, sync)
                synced = [said[0] for said in replies.after if said]
                raise_error(synced)
            if any(int(answer[0]) < 1 for answer in synced):
                reason = f"the append-only file did not reach the disk in {timeout_ms} ms"
                raise Unavailable(f"{what}: {reason}")
            return replies.values

        if not isinstance(self._stream, Cluster):
            return await write(calls)
        ends = await asyncio.gather(*(write([call]) for call in calls), return_exceptions=True)
        failed = [end for end in ends if isinstance(end, BaseException)]
        if len(failed) == len(ends) or any(not isinstance(error, RepcenterError) for error in failed):
            raise failed[0]
        return [end if isinstance(end, BaseException) else end[0] for end in ends]
