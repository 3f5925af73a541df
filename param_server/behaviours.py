"""Each user's newest behaviours on the shelf: appended, capped, in time order, deleted on request.

One key per user. An acknowledged append or deletion is on the server's disk: the
offline table does not hold behaviours, so nothing else could bring them back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contracts.errors import InvalidInput, TooLarge, Unavailable, shown
from contracts.events import MAX_EVENTS, MAX_TIMESTAMP_MS, Appended, Event, Forgotten
from contracts.items import check_item_id
from contracts.request import MAX_BEHAVIOURS, Behaviour
from contracts.space import SHARDS
from param_server import keys
from param_server.behaviour_rows import broken, event_digest, pack, unpack
from param_server.connection import redis_errors
from param_server.round_trip import raise_error
from param_server.scripts import run_calls
from param_server.server import Server, ask
from param_server.server_checks import Durability, check_durable, check_policy

DEFAULT_BEHAVIOURS = 200
MAX_USERS = 10_000  # of one read
USERS_AT_ONCE = 256
_FSYNC_MS = 1_500


@dataclass(frozen=True)
class Count:
    """Users who have behaviours, and all their behaviours."""

    users: int
    behaviours: int


class Behaviours:
    """redis: a client of the tables' server or cluster; it stays the caller's. most: behaviours kept of a
    user."""

    def __init__(self, redis: Server, most: int = DEFAULT_BEHAVIOURS, *, fsync_ms: int = _FSYNC_MS) -> None:
        if not 1 <= most <= MAX_BEHAVIOURS:
            raise InvalidInput("most", most, f"must be 1 to {MAX_BEHAVIOURS}")
        self._redis = redis
        self.most = most
        self._fsync_ms = fsync_ms
        self._durability: Durability | None = None

    async def check(self) -> Durability:
        """Ask the server whether it keeps what it acknowledges; Unavailable, with the fix, where not."""
        try:
            await check_policy(self._redis)
            self._durability = await check_durable(self._redis)
        except Unavailable:
            self._durability = None  # the next call asks again before it writes
            raise
        return self._durability

    async def append(self, events: Sequence[Event]) -> Appended:
        """At most MAX_EVENTS events of any users into their lists, each user's in one step.

        Every event has a timestamp_ms. Events may come late, again and in any order: a list is in time order,
        equal times as they came; known events change nothing, and of copies in one call the earliest counts.
        What is not newer than the oldest of a full list is dropped. Raises InvalidInput, TooLarge;
        UnknownVersion, BrokenRow (nothing of that shard was written); Unavailable (unknown what was written:
        append again).
        """
        if len(events) > MAX_EVENTS:
            raise TooLarge("events", len(events), MAX_EVENTS, "events")
        of_user: dict[str, list[Event]] = {}
        for n, event in enumerate(events):
            if event.timestamp_ms is None or not 0 <= event.timestamp_ms <= MAX_TIMESTAMP_MS:
                raise InvalidInput(f"events[{n}].timestamp_ms", event.timestamp_ms, "must be 0 to 2^53-1")
            of_user.setdefault(event.user_id, []).append(event)
        again = too_old = 0
        packed = []
        for theirs in of_user.values():
            by_digest: dict[bytes, Event] = {}
            for event in sorted(theirs, key=_time):
                digest = event_digest(event.event_id, event.item_id, _time(event), event.kind)
                by_digest.setdefault(digest, event)
            again += len(theirs) - len(by_digest)
            too_old += max(0, len(by_digest) - self.most)
            digests = list(by_digest)[-self.most :]
            kept = [by_digest[digest] for digest in digests]
            item_ids = keys.id_bytes([event.item_id for event in kept])
            packed.append(pack([_time(event) for event in kept], digests, item_ids))
        found = await self.append_packed(list(of_user), packed)
        return replace(found, duplicates=found.duplicates + again, too_old=found.too_old + too_old)

    async def append_packed(self, user_ids: Sequence[str], packed: Sequence[bytes]) -> Appended:
        """Events of distinct users, each user's as `pack` made them, at most `most`. As append() does.

        A round trip per USERS_AT_ONCE users, so that a large call does not hold the server for long.
        """
        outcomes: Counter[int] = Counter()
        for at in range(0, len(user_ids), USERS_AT_ONCE):
            end = at + USERS_AT_ONCE
            outcomes += await self._append_some(user_ids[at:end], packed[at:end])
        return Appended(*(outcomes[letter] for letter in b"adof"))

    async def _append_some(self, user_ids: Sequence[str], packed: Sequence[bytes]) -> Counter[int]:
        """One round trip -> how many events had each outcome of append_behaviours.lua."""
        shards: dict[int, tuple[list[int], list[bytes], list[bytes]]] = {}
        for n, user_id in enumerate(user_ids):
            shard, key = keys.user(check_item_id(user_id, "user_id").encode())
            places, names, values = shards.setdefault(
                shard, ([], [keys.user_shard(shard)], [b"%d" % self.most])
            )
            places.append(n)
            names.append(key)
            values.append(packed[n])
        calls = [(names, values) for _, names, values in shards.values()]
        replies = await self._durably("append_behaviours", calls, "append behaviours")
        outcomes: Counter[int] = Counter()
        for (places, _, _), (status, *detail) in zip(shards.values(), replies, strict=True):
            if status != b"ok":
                raise broken(detail[1], f"behaviours of user {shown(user_ids[places[detail[0]]])}")
            outcomes.update(detail[0])
        return outcomes

    async def read(self, user_ids: Sequence[str], newest: int = MAX_BEHAVIOURS) -> list[list[Behaviour]]:
        """The newest behaviours of each user, at most `newest`, newest last; none for unknown users.

        One round trip, at most MAX_USERS users. Raises InvalidInput, TooLarge, UnknownVersion, BrokenRow.
        """
        if len(user_ids) > MAX_USERS:
            raise TooLarge("user_ids", len(user_ids), MAX_USERS, "users")
        if not user_ids:
            return []
        given = [(b"GET", keys.user(check_item_id(user_id, "user_id").encode())[1]) for user_id in user_ids]
        async with redis_errors("read behaviours"):
            replies = await ask(self._redis, *given)
        return [
            unpack(reply, f"behaviours of user {shown(user_ids[n])}", newest).behaviours
            for n, reply in enumerate(replies)
        ]

    async def forget(self, user_id: str) -> Forgotten:
        """Delete all behaviours of a user. Idempotent. Raises as append() does.

        Events from before it that come later, or again, are refused: the time of the deletion stays, 12 bytes
        under a digest of the id.
        """
        shard, key = keys.user(check_item_id(user_id, "user_id").encode())
        names = [keys.user_shard(shard), key]
        ((status, *detail),) = await self._durably("forget_behaviours", [(names, [])], "forget a user")
        if status != b"ok":
            raise broken(detail[1], "behaviours of the user")
        return Forgotten(user_id, int(detail[0]), int(detail[1]))

    async def count(self) -> Count:
        """Counted where they are written, so this reads SHARDS small keys, not the users."""
        async with redis_errors("count behaviours"):
            values = await ask(
                self._redis,
                *((b"HMGET", keys.user_shard(shard), b"users", b"behaviours") for shard in range(SHARDS)),
            )
        users, behaviours = (sum(int(pair[i] or 0) for pair in values) for i in (0, 1))
        return Count(users, behaviours)

    async def _durably(
        self, script: str, calls: Sequence[tuple[list[bytes], list[bytes]]], what: str
    ) -> list[list[Any]]:
        """The replies of calls whose writes are on disk. WAITAOF waits for those of its own connection."""
        durability = self._durability or await self.check()
        after = (b"WAITAOF", b"1", b"0", b"%d" % self._fsync_ms) if durability == "waitaof" else ()
        async with redis_errors(what):
            replies, synced = await run_calls(self._redis, script, calls, after)
            raise_error(synced)
        if any(int(local) < 1 for local, _ in synced):
            raise Unavailable(f"{what}: the append-only file did not reach the disk in {self._fsync_ms} ms")
        return replies


def _time(event: Event) -> int:
    return event.timestamp_ms or 0
