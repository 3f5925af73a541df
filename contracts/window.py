"""The window message: the records of one commit, for caches and the offline table.

Same bytes and same sequence numbers as in the serving table. Layout, little-endian:

| bytes       | field                                                        |
| ----------- | ------------------------------------------------------------ |
| 2           | magic "RW"                                                   |
| 1           | version                                                      |
| 1           | reserved, 0                                                  |
| 8           | space id (the 16 hex characters as 8 bytes)                  |
| 8           | committed_ms, u64 wall clock of the writer                   |
| 4           | count, u32                                                   |
| 4           | record_bytes, u32                                            |
| 4 * count   | id_bytes, u32 length of each item id                         |
| sum         | item ids, UTF-8                                              |
| count * rb  | records; a tombstone is zero behind its header               |
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

import numpy as np

from contracts.codec import Rows, check_records
from contracts.errors import InvalidInput, SpaceMismatch, UnknownVersion
from contracts.space import Space

WINDOW_VERSION = 1
_MAGIC = b"RW"
_HEAD = struct.Struct("<2sBB8sQII")


@dataclass(frozen=True)
class Window:
    """item_ids: K ids; records: (K,) of the space's dtype, tombstones included."""

    space: Space
    item_ids: list[str]
    records: Rows
    committed_ms: int

    def __post_init__(self) -> None:
        if len(self.item_ids) != len(self.records):
            raise InvalidInput("item_ids", len(self.item_ids), f"must match {len(self.records)} records")
        if self.records.dtype != self.space.dtype:
            raise SpaceMismatch(str(self.space.dtype), str(self.records.dtype), "window records")


def encode_window(window: Window) -> bytes:
    """The message's bytes."""
    ids = [item_id.encode() for item_id in window.item_ids]
    head = _HEAD.pack(
        _MAGIC,
        WINDOW_VERSION,
        0,
        bytes.fromhex(window.space.id),
        window.committed_ms,
        len(ids),
        window.space.dtype.itemsize,
    )
    lengths = np.array([len(i) for i in ids], dtype="<u4")
    return b"".join([head, lengths.tobytes(), *ids, window.records.tobytes()])


def window_space_id(message: bytes) -> str:
    """The id of the space that a message belongs to; UnknownVersion where it is not a window message."""
    if len(message) < _HEAD.size or message[:2] != _MAGIC:
        raise InvalidInput("window", message[:16], "is not a window message")
    if message[2] != WINDOW_VERSION:
        raise UnknownVersion("window message", message[2], WINDOW_VERSION)
    return message[4:12].hex()


def decode_window(message: bytes, space: Space) -> Window:
    """The window of a message of `space`; SpaceMismatch, UnknownVersion or InvalidInput otherwise."""
    found = window_space_id(message)
    if found != space.id:
        raise SpaceMismatch(space.id, found, "window message")
    _, _, _, _, committed_ms, count, record_bytes = _HEAD.unpack_from(message)
    if record_bytes != space.dtype.itemsize:
        raise InvalidInput("window.record_bytes", record_bytes, f"must be {space.dtype.itemsize}")
    start = _HEAD.size + 4 * count
    if len(message) < start:
        raise InvalidInput("window", len(message), "is truncated")
    ends = start + np.cumsum(np.frombuffer(message, "<u4", count, _HEAD.size), dtype=np.int64)
    ids_end = int(ends[-1]) if count else start
    if len(message) != ids_end + count * record_bytes:
        raise InvalidInput("window", len(message), f"must be {ids_end + count * record_bytes} bytes")
    edges = [start, *ends.tolist()]
    try:
        ids = [message[a:b].decode() for a, b in itertools.pairwise(edges)]
    except UnicodeDecodeError as error:
        raise InvalidInput("window.item_ids", message[start:ids_end][:16], "is not UTF-8") from error
    records = np.frombuffer(message, space.dtype, count, ids_end)
    check_records(records, "window message")
    return Window(space, ids, records, committed_ms)
