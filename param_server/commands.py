"""Commands packed for one round trip: to one server, or to every node of a cluster that holds their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import NoScriptError

from param_server.round_trip import round_trip

Places = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int16]
_ASKING = b"*1\r\n$6\r\nASKING\r\n"


@dataclass(frozen=True)
class Commands:
    """C commands, at least one. lines: `width` byte strings to a command, which CRLF joins; slots: (C,)
    int16, the cluster slot of each; script: source of the Lua script that they call."""

    lines: Sequence[bytes]
    slots: Slots
    width: int = 1
    script: str | None = None

    def __len__(self) -> int:
        return len(self.slots)

    def packed(self, places: Places | None = None, asking: bool = False) -> bytes:
        """All commands, or those at `places`, in the Redis protocol; asking: ASKING before each."""
        lines = self.lines
        if places is not None:
            of_each = places[:, None] * self.width + np.arange(self.width)
            lines = list(map(lines.__getitem__, of_each.ravel().tolist()))
        if asking:
            w = self.width
            commands = [b"\r\n".join(lines[i : i + w]) for i in range(0, len(lines), w)]
            return b"".join([b"%s%s\r\n" % (_ASKING, command) for command in commands])
        return b"\r\n".join(lines) + b"\r\n"


def pack(words: Sequence[bytes]) -> bytes:
    """One command of these words, without its last CRLF."""
    return b"\r\n".join([b"*%d" % len(words), *(b"$%d\r\n%s" % (len(word), word) for word in words)])


def commands(given: Sequence[Sequence[bytes]]) -> Commands:
    """Commands, each of its words; the second one is its key."""
    return Commands([pack(words) for words in given], slots_of([words[1] for words in given]))


def slots_of(names: Sequence[bytes]) -> Slots:
    """The cluster slots of K keys -> (K,) int16."""
    return np.fromiter(map(key_slot, names), np.int16, len(names))


@dataclass(frozen=True)
class Replies:
    """values: of the commands, in their order; after: what each connection answered to what was sent after
    its commands. An error is an exception, not raised."""

    values: list[Any]
    after: list[list[Any]]


async def send_to(
    redis: Redis,
    given: Commands,
    after: Sequence[bytes] = (),
    places: Places | None = None,
    asking: bool = False,
) -> Replies:
    """Commands, or those at `places`, and then the packed commands `after`, on one connection of one server.

    A script that the server does not know is loaded, and the calls that met that are sent again, with
    `after`. Raises what the client raises.
    """
    tail = b"".join([command + b"\r\n" for command in after])

    async def exchange(places: Places | None) -> tuple[list[Any], list[Any]]:
        count = (len(given) if places is None else len(places)) * (1 + asking)
        replies = await round_trip(redis, given.packed(places, asking) + tail, count + len(after))
        return replies[asking : count : 1 + asking], replies[count:]

    values, said = await exchange(places)
    unknown = [i for i, value in enumerate(values) if isinstance(value, NoScriptError)]
    if given.script is None or not unknown:
        return Replies(values, [said])
    await redis.script_load(given.script)
    again, said_again = await exchange(np.array(unknown) if places is None else places[unknown])
    before = [said] if len(unknown) < len(values) else []  # else nothing was done there to say anything of
    for i, value in zip(unknown, again, strict=True):
        values[i] = value
    return Replies(values, [*before, said_again])
