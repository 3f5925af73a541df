"""The Lua scripts that ship beside this file: each runs in the server as one atomic step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from contracts.space import SHARDS
from param_server.commands import Commands, Slots, pack, slots_of
from param_server.keys import Family
from param_server.replicas import write
from param_server.round_trip import raise_error
from param_server.server import Server, send


@cache
def _source(name: str) -> str:
    return (files("param_server") / f"{name}.lua").read_text("ascii")


@cache
def _digest(name: str) -> bytes:
    return hashlib.sha1(_source(name).encode(), usedforsecurity=False).hexdigest().encode()


class Script:
    """One script of a server, called once at a time."""

    def __init__(self, redis: Server, name: str) -> None:
        self._redis, self._name = redis, name

    async def __call__(self, names: list[bytes], values: list[bytes]) -> list[Any]:
        """names: every key that the script touches, of one slot; values: its ARGV -> its reply, a list, once
        enough replicas have what it wrote. Sent again where the connection was lost. Raises Unavailable where
        they do not."""
        ((reply,), _) = await run_calls(self._redis, self._name, [(names, values)])
        return reply


async def run_by_shard(
    redis: Server,
    name: str,
    family: Family,
    ids: Sequence[bytes],
    values: Sequence[bytes],
    first: bytes,
    *,
    replicated: bool = True,
) -> list[tuple[npt.NDArray[np.int64], list[Any]]]:
    """A script on every shard that some id belongs to, all in one round trip.

    KEYS: the shard's key, then for each of its ids the key of its bucket; ARGV: `first`, then for each id the
    id and its value. -> per shard which of the ids were its (in their order) and the script's reply.
    replicated: wait for the replicas that are asked for; Unavailable where they do not answer in time.
    """
    if not ids:
        return []
    buckets = family.buckets_of(ids)
    shards = buckets % SHARDS
    order = np.argsort(shards, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(shards[order])) + 1)
    names = family.keys(buckets[order], b"$%d\r\n" % family.key_bytes)
    arguments = [b""] * (4 * len(ids))
    places = order.tolist()
    for at, strings in ((0, ids), (2, values)):
        chosen = [strings[place] for place in places]
        arguments[at::4] = [b"$%d" % len(string) for string in chosen]
        arguments[at + 1 :: 4] = chosen
    calls: list[bytes] = []
    end = 0
    for part in rows:
        begin, end = end, end + len(part)
        lines = _head(name, [family.shard_keys[shards[part[0]]]], len(part), [first], 2 * len(part))
        lines[-2:-2] = names[begin:end]
        calls.append(b"\r\n".join(chain(lines, arguments[4 * begin : 4 * end])))
    touched = shards[np.array([part[0] for part in rows])]
    replies, _ = await _run(redis, name, calls, family.slots[touched], replicated=replicated)
    return list(zip(rows, replies, strict=True))


async def run_on_shards(redis: Server, name: str, family: Family, values: Sequence[bytes]) -> list[list[Any]]:
    """A script on the key of every shard, all in one round trip. Unavailable as in run_by_shard."""
    calls = [b"\r\n".join(_head(name, [key], 0, values, 0)) for key in family.shard_keys]
    replies, _ = await _run(redis, name, calls, family.slots)
    return replies


async def run_calls(
    redis: Server,
    name: str,
    calls: Sequence[tuple[Sequence[bytes], Sequence[bytes]]],
    after: Sequence[bytes] = (),
) -> tuple[list[list[Any]], list[Any]]:
    """Calls of a script, each of its KEYS (of one slot) and its ARGV, all in one round trip, and then on each
    connection the command of the words `after` -> their replies, and those of `after`. Sent again where a
    connection was lost. Unavailable as in run_by_shard."""
    packed = [b"\r\n".join(_head(name, names, 0, values, 0)) for names, values in calls]
    return await _run(redis, name, packed, slots_of([names[0] for names, _ in calls]), after)


def _head(
    name: str, names: Sequence[bytes], more_names: int, values: Sequence[bytes], more: int
) -> list[bytes]:
    """Lines of an EVALSHA with these KEYS and ARGV, and so many more of both that are still to be put in."""
    keys = len(names) + more_names
    given = [b"EVALSHA", _digest(name), b"%d" % keys, *names, *values]
    lines = [b"*%d" % (3 + keys + len(values) + more)]
    for string in given:
        lines += (b"$%d" % len(string), string)
    return lines


async def _run(
    redis: Server,
    name: str,
    calls: Sequence[bytes],
    slots: Slots,
    after: Sequence[bytes] = (),
    *,
    replicated: bool = True,
) -> tuple[list[list[Any]], list[Any]]:
    """Packed calls of a script -> their replies, and those of `after`, one for each connection."""
    given = Commands(calls, slots, script=_source(name))
    tail = [pack(after)] if after else []
    if replicated:
        replies = await write(redis, given, tail)
    else:
        replies = await send(redis, given, tail)
        raise_error(replies.values)
    return cast(list[list[Any]], replies.values), [said[0] for said in replies.after if said]
