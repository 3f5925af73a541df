"""Thousands of rows in one round trip, packed without a step of Python per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from redis.exceptions import ResponseError

from contracts.items import MAX_ID_BYTES
from contracts.space import SHARDS
from param_server.commands import Commands, commands, slots_of
from param_server.keys import Family
from param_server.round_trip import raise_error
from param_server.server import Server, send

_LENGTHS = tuple(b"$%d" % size for size in range(MAX_ID_BYTES + 1))


def hgets(
    families: Sequence[Family], ids: Sequence[bytes], more: Sequence[tuple[bytes, bytes]] = ()
) -> Commands:
    """An HGET per id in the first family, then in the next, then one per key and field of `more`. ids: 1 to
    MAX_ID_BYTES bytes each, at least one."""
    count = len(ids)
    lines = [b""] * (3 * count * len(families))
    slots = np.empty(count * len(families), np.int16)
    lines[1::3] = list(map(_LENGTHS.__getitem__, map(len, ids))) * len(families)
    lines[2::3] = list(ids) * len(families)
    for i, family in enumerate(families):
        buckets = family.buckets_of(ids)
        head = b"*3\r\n$4\r\nHGET\r\n$%d\r\n" % family.key_bytes
        lines[3 * i * count : 3 * (i + 1) * count : 3] = family.keys(buckets, head)
        slots[i * count : (i + 1) * count] = family.slots[buckets % SHARDS]
    for key, field in more:
        lines += (b"*3\r\n$4\r\nHGET\r\n$%d\r\n%s" % (len(key), key), b"$%d" % len(field), field)
    if more:
        slots = np.concatenate([slots, slots_of([key for key, _ in more])])
    return Commands(lines, slots, width=3)


async def hget(
    redis: Server,
    families: Sequence[Family],
    ids: Sequence[bytes],
    more: Sequence[tuple[bytes, bytes]] = (),
) -> list[bytes | None]:
    """The rows of all ids in the first family, then in the next, then single fields by key and field, in one
    round trip; None where absent. A server answers in this order.

    ids: 1 to MAX_ID_BYTES bytes each, at least one. Raises what the client raises.
    """
    return await _strings(redis, hgets(families, ids, more))


async def hget_each(redis: Server, names: Sequence[bytes], field: bytes) -> list[bytes | None]:
    """One field of each of these hashes, at least one, in one round trip; None where absent."""
    return await _strings(redis, commands([(b"HGET", name, field) for name in names]))


async def _strings(redis: Server, given: Commands) -> list[bytes | None]:
    replies = (await send(redis, given)).values
    if not {bytes, type(None)}.issuperset(map(type, replies)):
        raise_error(replies)
        raise ResponseError("HGET gave a reply that is neither a string nor nil")
    return cast(list[bytes | None], replies)
