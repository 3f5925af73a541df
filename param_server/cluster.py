"""A Redis Cluster as one server: commands go to the nodes of their slots, and again while slots move.

Connections, pools and parsing are redis-py's; the routing is ours, since its cluster client closes every
caller's connections when the layout changes, may send a command on another connection than its ASKING,
fails at once where all connections are busy, and takes a step of Python per command (docs/adr/0014).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from redis.asyncio import Redis
from redis.commands import AsyncCoreCommands
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from param_server.commands import Commands, Places, Replies, send_to
from param_server.link import PoolBusy
from param_server.round_trip import raise_error, round_trip
from param_server.slot_map import LOST, Address, SlotMap

_MOST_TRIES = 200
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.2
_SOON = 3  # tries without a pause, where a node said who to ask
_SLOTS = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"
_REDIRECTS = (AskError, MovedError, TryAgainError, ClusterDownError, ReadOnlyError)
_KEY_PLACES = {
    "EVALSHA": 3,
    "OBJECT": 2,
    **dict.fromkeys(("DEL", "EXISTS", "EXPIRE", "GET", "INCR", "PERSIST", "SET", "TTL", "TYPE", "UNLINK"), 1),
    **dict.fromkeys(("HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN", "HMGET", "HSCAN"), 1),
    **dict.fromkeys(("HSET", "HSETNX", "HVALS", "LLEN", "LRANGE", "LTRIM", "RPUSH", "MEMORY USAGE"), 1),
    **dict.fromkeys(("SADD", "SCARD", "SISMEMBER", "SMEMBERS", "SREM"), 1),
    **dict.fromkeys(("XACK", "XADD", "XAUTOCLAIM", "XCLAIM", "XDEL", "XLEN", "XPENDING", "XRANGE"), 1),
    **dict.fromkeys(("XREVRANGE", "XTRIM", "XGROUP CREATE", "XGROUP DESTROY", "XGROUP DELCONSUMER"), 1),
    **dict.fromkeys(("XGROUP SETID", "XINFO CONSUMERS", "XINFO GROUPS", "XINFO STREAM"), 1),
}


class Cluster(AsyncCoreCommands):
    """A client of every node. seeds: the addresses to begin with; node: makes a client of one node, with a
    pool of its own; retry_s: how long a command is sent again while slots move or a node is replaced.

    redis-py's methods are there for commands of one slot.
    """

    _is_async_client: Literal[True] = True

    _event_dispatcher: Any = None  # of redis-py's client-side events, of which there are none here

    def __init__(self, seeds: Sequence[Address], node: Callable[[Address], Redis], retry_s: float) -> None:
        self._make = node
        self._retry_s = retry_s
        self._nodes: dict[Address, Redis] = {}
        self.slots = SlotMap(seeds)

    async def aclose(self) -> None:
        """Close every connection."""
        nodes, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(*(node.aclose() for node in nodes))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def nodes(self) -> list[Redis]:
        """The clients of all nodes that were spoken to."""
        return list(self._nodes.values())

    def node(self, address: Address) -> Redis:
        """The client of one node."""
        if address not in self._nodes:
            self._nodes[address] = self._make(address)
        return self._nodes[address]

    async def primaries(self) -> dict[Address, Redis]:
        """A client of each node that has slots now; ConnectionError where no node answers."""
        await self._look(self.slots.version)
        found = {address: self.node(address) for address in self.slots.slots_of_primaries()}
        if not found:
            raise RedisConnectionError(f"no node of the cluster answers; {self.slots.trouble}")
        return found

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """An ordinary command of one slot; sent again as in send()."""
        slot = key_slot(_key(words))
        patience = _Patience(self._retry_s)
        asked: Address | None = None
        while True:
            seen = self.slots.version
            if asked is None and self.slots.owner(slot) is None:
                await self._look(seen)
            address = asked or self.slots.owner(slot)
            try:
                if address is None:
                    raise RedisConnectionError(f"a slot has no node; {self.slots.trouble}")
                if asked is None:
                    node: Any = self.node(address)  # untyped in redis-py
                    return await node.execute_command(*words, **options)
                async with self.node(asked).pipeline(transaction=False) as pipeline:  # on one connection
                    pipeline.execute_command("ASKING")
                    pipeline.execute_command(*words, **options)
                    return (await pipeline.execute())[1]
            except (*_REDIRECTS, *LOST) as error:
                if isinstance(error, AuthenticationError | PoolBusy):
                    raise
                asked = await self._learn(error, address, seen)
                if isinstance(error, RedisTimeoutError) and self.slots.owner(slot) == address:
                    raise
                await patience.wait(error)

    async def send(self, given: Commands, after: Sequence[bytes] = ()) -> Replies:
        """Commands to the nodes of their slots, all nodes at once: each node's in their order, then the
        packed commands `after`, on one connection.

        A command that a node refuses because its slot moves (MOVED, ASK, TRYAGAIN) or the cluster is not
        whole (CLUSTERDOWN), or whose node is lost, is sent again until retry_s is over; after a timeout
        only where another node has its slot by then. So it may be executed twice. Other errors are among
        the replies. Raises what the client raises.
        """
        values: list[Any] = [None] * len(given)
        said: list[list[Any]] = []
        patience = _Patience(self._retry_s)
        waiting = np.arange(len(given))
        asked: dict[int, Address] = {}  # places of commands that a node sent on to another one
        while True:
            seen = self.slots.version
            if (self.slots.owners(given.slots[waiting]) < 0).any():
                await self._look(seen)
            parts = list(self._parts(given, waiting, asked))
            outcomes = await _at_once([self._send_part(part, given, after) for part in parts])
            refused: list[tuple[int, Exception, Address | None]] = []
            for part, outcome in zip(parts, outcomes, strict=True):
                places = part.places.tolist()
                if isinstance(outcome, Exception):
                    refused += [(place, outcome, part.address) for place in places]
                    continue
                for place, reply in zip(places, outcome.values, strict=True):
                    values[place] = reply
                here = (
                    [place for place in places if isinstance(values[place], _REDIRECTS)]
                    if (any(issubclass(kind, _REDIRECTS) for kind in set(map(type, outcome.values))))
                    else []
                )
                refused += [(place, values[place], part.address) for place in here]
                if len(here) < len(
                    places
                ):  # else it did nothing, and what it says to `after` is of no interest
                    said += outcome.after
            if not refused:
                return Replies(values, said)
            asked = {}
            for place, error, address in refused:
                other = await self._learn(error, address, seen)
                if other is not None:
                    asked[place] = other
                elif isinstance(error, RedisTimeoutError) and self.slots.owner(given.slots[place]) == address:
                    raise error
            await patience.wait(refused[0][1])
            waiting = np.array(sorted(place for place, _, _ in refused))

    async def send_once(self, given: Commands) -> list[Any]:
        """Commands to the nodes of their slots, all nodes at once -> their replies.

        What is refused, or whose node does not answer, is an exception in its place; only where a node said
        who has the slot, that one is asked too. What others gave is never lost with it, and the map is
        mended for the next try.
        """
        values: list[Any] = [None] * len(given)
        waiting, asked = np.arange(len(given)), dict[int, Address]()
        for _ in range(2):
            seen = self.slots.version
            if (self.slots.owners(given.slots[waiting]) < 0).any():
                await self._look(seen)
            parts = list(self._parts(given, waiting, asked))
            outcomes = await _at_once([self._try_part(part, given) for part in parts])
            again: list[int] = []
            asked = {}
            for part, outcome in zip(parts, outcomes, strict=True):
                places = part.places.tolist()
                replies = [outcome] * len(places) if isinstance(outcome, Exception) else outcome.values
                for place, reply in zip(places, replies, strict=True):
                    values[place] = reply
                    if not isinstance(reply, (*_REDIRECTS, *LOST)):
                        continue
                    other = await self._learn(reply, part.address, seen)
                    if other is not None:
                        asked[place] = other
                    if isinstance(reply, AskError | MovedError):
                        again.append(place)
            if not again:
                break
            waiting = np.array(sorted(again))
        return values

    async def _try_part(self, part: _Part, given: Commands) -> Replies | Exception:
        """One node's replies, or whatever went wrong with it."""
        try:
            return await self._send_part(part, given, ())
        except (RedisError, OSError) as error:
            return error

    def _parts(self, given: Commands, waiting: Places, asked: dict[int, Address]) -> Iterator[_Part]:
        """The commands at the places `waiting`, by the node to send them to."""
        if asked:
            for address in set(asked.values()):
                yield _Part(address, np.array([p for p in waiting.tolist() if asked.get(p) == address]), True)
            waiting = np.array([place for place in waiting.tolist() if place not in asked], np.int64)
        owners = self.slots.owners(given.slots[waiting])
        order = np.argsort(owners, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            if len(part):
                owner = int(owners[part[0]])
                yield _Part(self.slots.address(owner) if owner >= 0 else None, waiting[part])

    async def _send_part(self, part: _Part, given: Commands, after: Sequence[bytes]) -> Replies | Exception:
        """One node's replies, or how it was lost."""
        if part.address is None:
            return RedisConnectionError(f"a slot has no node; {self.slots.trouble}")
        places = None if len(part.places) == len(given) else part.places
        try:
            return await send_to(self.node(part.address), given, after, places, part.asking)
        except LOST as error:
            if isinstance(error, AuthenticationError | PoolBusy):
                raise
            return error

    async def _learn(self, error: Exception, address: Address | None, seen: int) -> Address | None:
        """What a refusal by the node at `address` says of the slots -> the node to ask instead, this once."""
        if isinstance(error, MovedError | AskError):
            there = (error.host if error.host not in ("", "?") or not address else address[0], error.port)
            if not isinstance(error, MovedError):
                return there
            self.slots.move(error.slot_id, there)
        elif not isinstance(error, TryAgainError):
            await self._look(seen)
        return None

    async def _look(self, seen: int) -> None:
        await self.slots.look(seen, self._ask_slots)

    async def _ask_slots(self, address: Address) -> list[Any]:
        (rows,) = await round_trip(self.node(address), _SLOTS, 1)
        raise_error([rows])
        return list(rows)


@dataclass(frozen=True)
class _Part:
    """The commands at `places` for one node (None: nobody has their slot); asking: ASKING before each."""

    address: Address | None
    places: Places
    asking: bool = False


class _Patience:
    """How long, and how often, a command is sent again."""

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self._tries = 0
        self._pause_s = _FIRST_PAUSE_S

    async def wait(self, error: Exception) -> None:
        """Pause before the next try; raises `error` where there is none."""
        self._tries += 1
        left = self._end - asyncio.get_running_loop().time()
        if left <= 0 or self._tries >= _MOST_TRIES:
            raise error
        if self._tries > _SOON or not isinstance(error, AskError):
            await asyncio.sleep(min(self._pause_s, left))
            self._pause_s = min(1.5 * self._pause_s, _LONGEST_PAUSE_S)


async def _at_once(sending: Sequence[Coroutine[Any, Any, Replies | Exception]]) -> list[Replies | Exception]:
    if len(sending) == 1:
        return [await sending[0]]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in sending]
    return [task.result() for task in tasks]


def _key(words: Sequence[Any]) -> bytes:
    """The first key of an ordinary command; ValueError where it is not a command of keys that is used
    here."""
    name = str(words[0]).upper()
    if name in ("XREAD", "XREADGROUP"):
        place = next(i for i, word in enumerate(words) if word in ("STREAMS", b"STREAMS")) + 1
    elif name in _KEY_PLACES:
        place = _KEY_PLACES[name]
    else:
        raise ValueError(f"{name} has no key to find a node by; ask each of primaries()")
    key = words[place]
    return key if isinstance(key, bytes) else str(key).encode()
