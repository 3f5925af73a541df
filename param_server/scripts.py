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
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from contracts.space import SHARDS
from param_server.hget import exchange, raise_error
from param_server.keys import Family


@cache
def _source(name: str) -> str:
    return (files("param_server") / f"{name}.lua").read_text("ascii")


@cache
def _digest(name: str) -> bytes:
    return hashlib.sha1(_source(name).encode(), usedforsecurity=False).hexdigest().encode()


class Script:
    """One script of a client: EVALSHA, and EVAL where the server does not know it yet."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._script = redis.register_script(_source(name))

    async def __call__(self, names: list[bytes], values: list[bytes]) -> list[Any]:
        """names: every key that the script touches; values: its ARGV -> its reply, a list."""
        return cast(list[Any], await self._script(keys=names, args=values))


async def run_by_shard(
    redis: Redis, name: str, family: Family, ids: Sequence[bytes], values: Sequence[bytes], first: bytes
) -> list[tuple[npt.NDArray[np.int64], list[Any]]]:
    """A script on every shard that some id belongs to, all in one round trip.

    KEYS: the shard's key, then for each of its ids the key of its bucket; ARGV: `first`, then for each id the
    id and its value. -> per shard which of the ids were its (in their order) and the script's reply.
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
    lines: list[bytes] = []
    end = 0
    for part in rows:
        begin, end = end, end + len(part)
        lines += _head(name, [family.shard_keys[shards[part[0]]]], len(part), [first], 2 * len(part))
        lines[-2:-2] = names[begin:end]
        lines += arguments[4 * begin : 4 * end]
    replies = await _run(redis, name, lines, len(rows))
    return list(zip(rows, replies, strict=True))


async def run_on_shards(redis: Redis, name: str, family: Family, values: Sequence[bytes]) -> list[list[Any]]:
    """A script on the key of every shard, all in one round trip."""
    lines = list(chain.from_iterable(_head(name, [key], 0, values, 0) for key in family.shard_keys))
    return await _run(redis, name, lines, len(family.shard_keys))


async def run_calls(
    redis: Redis,
    name: str,
    calls: Sequence[tuple[Sequence[bytes], Sequence[bytes]]],
    after: Sequence[bytes] = (),
) -> tuple[list[list[Any]], Any]:
    """Calls of a script, each of its KEYS and its ARGV, then the command `after`, all in one round trip and
    on one connection -> their replies and that of `after`. Sent again where the connection was lost."""
    lines = list(chain.from_iterable(_head(name, names, 0, values, 0) for names, values in calls))
    if after:
        lines += (b"*%d" % len(after), *chain.from_iterable((b"$%d" % len(word), word) for word in after))
    replies = await _run(redis, name, lines, len(calls) + bool(after))
    return replies[: len(calls)], replies[len(calls)] if after else None


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


async def _run(redis: Redis, name: str, lines: Sequence[bytes], count: int) -> list[list[Any]]:
    """`count` packed calls of a script; it is loaded first where the server does not know it."""
    packed = b"\r\n".join(lines) + b"\r\n"
    replies = await exchange(redis, packed, count)
    if any(isinstance(reply, NoScriptError) for reply in replies):
        await redis.script_load(_source(name))
        replies = await exchange(redis, packed, count)
    raise_error(replies)
    return cast(list[list[Any]], replies)
