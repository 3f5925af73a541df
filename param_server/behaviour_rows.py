"""A user's behaviours <-> the bytes that are stored of them, and that events travel in to the script.

| at        | bytes | holds                                                                     |
| --------- | ----- | ------------------------------------------------------------------------- |
| 0         | 1     | version, 1                                                                |
| 1         | 1     | 0                                                                         |
| 2         | 2     | n: behaviours, u16                                                        |
| 4         | 8     | forgotten: events up to this time are refused, ms u64; 0: never forgotten |
| 12        | 8 n   | times, ms u64, ascending: the newest is last                              |
| 12 + 8 n  | 8 n   | digests of the event ids                                                  |
| 12 + 16 n | n     | bytes of each item id, less 1                                             |
| 12 + 17 n |       | the item ids, UTF-8, one after another                                    |

All numbers are little-endian. A user of n behaviours takes 12 + (17 + bytes of an item id) n bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from contracts.errors import RepcenterError, UnknownVersion
from contracts.request import Behaviour
from param_server.rows import BrokenRow

BEHAVIOURS_VERSION = 1
DIGEST_BYTES = 8
_HEAD = struct.Struct("<BBHQ")
_KNOWN = bytes((BEHAVIOURS_VERSION, 0))
_PER_BEHAVIOUR = 17


@dataclass(frozen=True)
class History:
    """What is stored of one user. behaviours: newest last; forgotten_ms: 0 where never forgotten."""

    behaviours: list[Behaviour]
    forgotten_ms: int = 0


def event_digest(event_id: str | None, item_id: str, timestamp_ms: int, kind: str | None = None) -> bytes:
    """8 bytes that an event is known by again: of its id, else of the item, the time and the kind."""
    if event_id is not None:
        return hashlib.blake2b(event_id.encode(), digest_size=DIGEST_BYTES, person=b"id").digest()
    text = f"{timestamp_ms} {kind is None:d} {len(kind or '')} {kind or ''}{item_id}"
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES, person=b"event").digest()


def pack(times: Sequence[int], digests: Sequence[bytes], item_ids: Sequence[bytes]) -> bytes:
    """n events of one user, ascending in time, n < 2^16 -> their bytes. item_ids: 1 to 256 bytes each."""
    sizes = bytes(len(item_id) - 1 for item_id in item_ids)
    return pack_columns(np.array(times, "<u8").tobytes(), b"".join(digests), sizes, b"".join(item_ids))


def pack_columns(times: bytes, digests: bytes, sizes: bytes, ids: bytes) -> bytes:
    """The same from the columns of the table above."""
    return b"".join((_HEAD.pack(BEHAVIOURS_VERSION, 0, len(sizes), 0), times, digests, sizes, ids))


def unpack(value: bytes | None, what: str, newest: int) -> History:
    """The stored bytes -> the newest behaviours, at most `newest`; none where nothing is stored.

    Raises UnknownVersion or BrokenRow; both name `what`.
    """
    if value is None:
        return History([])
    if value[:2] != _KNOWN or len(value) < _HEAD.size:
        raise broken(value, what)
    _, _, count, forgotten_ms = _HEAD.unpack_from(value)
    sizes_at = _HEAD.size + 2 * DIGEST_BYTES * count
    ids_at = _HEAD.size + _PER_BEHAVIOUR * count
    sizes = np.frombuffer(value, np.uint8, count, sizes_at) if len(value) >= ids_at else np.zeros(0, np.uint8)
    if len(value) != ids_at + int(sizes.sum(dtype=np.int64)) + len(sizes) or len(sizes) != count:
        raise broken(value, what)
    kept = min(count, newest)
    if kept == 0:
        return History([], forgotten_ms)
    times = np.frombuffer(value, "<u8", kept, _HEAD.size + 8 * (count - kept)).tolist()
    lengths = (sizes[count - kept :].astype(np.int64) + 1).tolist()
    cuts = pairwise(accumulate(lengths, initial=len(value) - sum(lengths)))
    return History(
        [Behaviour(value[a:b].decode(), t) for (a, b), t in zip(cuts, times, strict=True)], forgotten_ms
    )


def broken(head: bytes, what: str) -> RepcenterError:
    """What is wrong with stored bytes that cannot be used."""
    if head[:2] != _KNOWN:
        return UnknownVersion(what, tuple(head[:2]), tuple(_KNOWN))
    return BrokenRow(f"{what}: {len(head)} bytes are not what their header says")
