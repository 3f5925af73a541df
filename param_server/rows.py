"""Replies of MGET -> arrays of rows, checked, without decoding row by row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
import numpy.typing as npt

from contracts.codec import (
    CONTENT_INT8,
    HEADER_BYTES,
    RECORD_VERSION,
    TOMBSTONE,
    Rows,
    check_id_rows,
    check_records,
    content_codec,
    record_dtype,
)
from contracts.errors import RepcenterError, UnknownVersion, shown

_HEADERS = record_dtype((), 0)  # the 12 bytes that every record and every tombstone begins with


class BrokenRow(RepcenterError):
    """A stored row is not what its version and table say. Another writer's mistake, never the caller's."""

    code = "internal"


def join_records(
    replies: Sequence[bytes | None], dtype: np.dtype[np.void], item_ids: Sequence[str], what: str
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """K replies -> records (K,) of dtype, zero where not found; found (K,) bool, False for tombstones.

    Raises UnknownVersion or BrokenRow; both name the item.
    """
    values, sizes = _sizes(replies)
    found = sizes == dtype.itemsize
    dead = sizes == HEADER_BYTES
    other = ~(found | dead | (sizes == 0))
    if other.any():
        _refuse(values, sizes, other, item_ids, what, dtype)
    if dead.any():
        headers = np.frombuffer(b"".join(compress(values, dead)), _HEADERS)
        check_records(headers, what, content_codec(dtype))
        if not (headers["flags"] & TOMBSTONE).all():
            i = int(np.flatnonzero(dead)[int(np.flatnonzero((headers["flags"] & TOMBSTONE) == 0)[0])])
            raise BrokenRow(f"{what}, item {shown(item_ids[i])}: a bare header that is not a tombstone")
    rows = _join(values, found, dtype)
    stored = rows if found.all() else rows[found]
    check_records(stored, what)
    if (stored["flags"] & TOMBSTONE).any():
        i = int(np.flatnonzero(found)[int(np.flatnonzero(stored["flags"] & TOMBSTONE)[0])])
        raise BrokenRow(f"{what}, item {shown(item_ids[i])}: a tombstone that carries a body")
    return rows, found


def join_id_rows(
    replies: Sequence[bytes | None],
    dtype: np.dtype[np.void],
    codec: int,
    item_ids: Sequence[str],
    what: str,
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """K replies -> ID rows (K,) of dtype, zero where absent; found (K,) bool. UnknownVersion, BrokenRow."""
    values, sizes = _sizes(replies)
    found = sizes == dtype.itemsize
    other = ~(found | (sizes == 0))
    rows = _join(values, found, dtype)
    if other.any():
        i = int(np.flatnonzero(other)[0])
        raise BrokenRow(f"{what}, item {shown(item_ids[i])}: {sizes[i]} bytes, must be {dtype.itemsize}")
    check_id_rows(rows if found.all() else rows[found], codec)
    return rows, found


def join_sequences(
    replies: Sequence[bytes | None], what: str, codec: int = CONTENT_INT8
) -> npt.NDArray[np.uint64]:
    """K stored records or headers -> (K,) uint64, 0 where absent. Raises UnknownVersion or BrokenRow."""
    blank = bytes(HEADER_BYTES)
    heads = [blank if r is None else r[:HEADER_BYTES] for r in replies]
    if any(len(head) != HEADER_BYTES for head in heads):
        raise BrokenRow(f"{what}: a row shorter than {HEADER_BYTES} bytes")
    rows = np.frombuffer(b"".join(heads), _HEADERS)
    check_records(rows[np.array([r is not None for r in replies], dtype=bool)], what, codec)
    return rows["sequence"].astype(np.uint64)


def broken_head(head: bytes, where: str, codec: int = CONTENT_INT8) -> RepcenterError:
    """What is wrong with a stored row whose first HEADER_BYTES bytes cannot be used. codec: the space's."""
    known = (RECORD_VERSION, codec)
    if tuple(head[:2]) != known:
        return UnknownVersion(where, tuple(head[:2]), known)
    return BrokenRow(f"{where}: {len(head)} bytes, shorter than a header")


def _sizes(replies: Sequence[bytes | None]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    values = [reply or b"" for reply in replies]
    return values, np.fromiter(map(len, values), np.int64, len(values))


def _join(values: list[bytes], found: npt.NDArray[np.bool_], dtype: np.dtype[np.void]) -> Rows:
    if found.all():
        return np.frombuffer(b"".join(values), dtype)
    rows = np.zeros(len(values), dtype)
    rows[found] = np.frombuffer(b"".join(compress(values, found)), dtype)
    return rows


def _refuse(
    values: list[bytes],
    sizes: npt.NDArray[np.int64],
    other: npt.NDArray[np.bool_],
    item_ids: Sequence[str],
    what: str,
    dtype: np.dtype[np.void],
) -> None:
    i = int(np.flatnonzero(other)[0])
    where = f"{what}, item {shown(item_ids[i])}"
    codec = content_codec(dtype)
    if tuple(values[i][:2]) != (RECORD_VERSION, codec):
        raise broken_head(values[i][:HEADER_BYTES], where, codec)
    raise BrokenRow(f"{where}: {sizes[i]} bytes, must be {dtype.itemsize} or {HEADER_BYTES}")
