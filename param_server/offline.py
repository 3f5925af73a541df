"""The offline table: every committed window as a Parquet file, in a directory or an object store (fsspec).

`<root>/<space id>/<name>-<digest of the window's ids and records>.parquet`: a window that is appended
again meets its own file. What such a file holds: param_server.record_file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.codec import Rows, is_tombstone
from contracts.errors import InvalidInput
from contracts.space import Space
from contracts.window import Window
from param_server.record_file import check_space, committed_of, records_of, to_table

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


class OfflineVersions(NamedTuple):
    """V versions by item, then by time. since_ms: from when on each was its item's newest."""

    item_ids: list[str]  # V, an item's versions side by side
    records: Rows  # (V,), tombstones included
    since_ms: npt.NDArray[np.int64]  # (V,) committed_ms

    @property
    def sequences(self) -> npt.NDArray[np.uint64]:
        """(V,)"""
        out: npt.NDArray[np.uint64] = self.records["sequence"]
        return out


class OfflineTable:
    """Windows of all spaces under one root. Blocking I/O: call from a thread."""

    def __init__(self, root: str) -> None:
        self._filesystem: Any
        self._filesystem, base = fsspec.core.url_to_fs(root)
        self._base = base.rstrip("/")

    def append(self, window: Window, name: str) -> str:
        """Store a window under a name of the caller's (letters, digits, `._-`) -> the file's path.

        Idempotent: the same ids and records under the same name give one file, whenever they were
        committed. A crash leaves the whole file or none.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput("name", name, "must be 1 to 128 of letters, digits, '.', '_' and '-'")
        path = f"{self._folder(window.space)}/{name}-{_digest(window)}.parquet"
        if not self._filesystem.exists(path):
            self._write(path, _to_parquet(window))
        return path

    def read(self, space: Space) -> tuple[list[str], Rows]:
        """The newest live records of a space: K distinct ids and (K,) records.

        Where two records of an item have equal sequences the one committed first stays, as in the serving
        table. Raises SpaceMismatch, UnknownVersion, InvalidInput (names the file).
        """
        encoded, records, committed = self._read_all(space)
        codes = np.asarray(encoded.indices)
        # by item, then sequence, then the earliest commit last: the last row of each item wins
        order = np.lexsort((-committed, records["sequence"], codes))
        last = order[np.flatnonzero(np.diff(codes[order], append=len(codes)))]
        winners = np.sort(last[~is_tombstone(records[last])])
        return _names(encoded, winners), records[winners]

    def read_versions(self, space: Space) -> OfflineVersions:
        """Every record that has ever been an item's newest, tombstones included: V by item, then by time.

        A record that was committed after one of its item with an equal or higher sequence was never seen by
        a reader, and is left out. The last version of each item is the one that `read` gives.
        Raises SpaceMismatch, UnknownVersion, InvalidInput (names the file).
        """
        encoded, records, committed = self._read_all(space)
        codes = np.asarray(encoded.indices).astype(np.int64)
        # of equal commits and sequences the row read last comes first: it is the one that `read` gives
        order = np.lexsort((-np.arange(len(codes)), records["sequence"], committed, codes))
        distinct, ranks = np.unique(records["sequence"], return_inverse=True)
        keys = codes[order] * len(distinct) + ranks[order]  # grows over items: a running maximum per item
        before = np.maximum.accumulate(np.concatenate([np.full(1, -1), keys]))[:-1]
        kept = order[keys > before]
        return OfflineVersions(_names(encoded, kept), records[kept], committed[kept])

    def _read_all(self, space: Space) -> tuple[Any, Rows, npt.NDArray[np.int64]]:
        """All rows of a space in the order of its files: dictionary-encoded ids, records, committed_ms."""
        paths: list[str] = []
        if self._filesystem.isdir(self._folder(space)):
            self._filesystem.invalidate_cache(self._folder(space))
            paths = sorted(p for p in self._filesystem.ls(self._folder(space), detail=False) if _is_file(p))
        parts = [self._read_file(path, space) for path in paths]
        ids = pa.chunked_array([chunk for part in parts for chunk in part[0].chunks], pa.string())
        records = np.concatenate([np.zeros(0, space.dtype), *(part[1] for part in parts)])
        committed = np.concatenate([np.zeros(0, np.int64), *(part[2] for part in parts)])
        return pc.dictionary_encode(ids.combine_chunks()), records, committed

    def _folder(self, space: Space) -> str:
        return f"{self._base}/{space.id}"

    def _write(self, path: str, data: bytes) -> None:
        self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        if "file" not in self._filesystem.protocol:
            self._filesystem.pipe_file(path, data)  # object stores show a file when it is complete
            return
        part = Path(f"{path}.{uuid.uuid4().hex}.part")
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        folder = os.open(part.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read_file(self, path: str, space: Space) -> tuple[pa.ChunkedArray, Rows, npt.NDArray[np.int64]]:
        try:
            table = pq.read_table(io.BytesIO(self._filesystem.cat_file(path)))
        except pa.ArrowInvalid as error:
            raise InvalidInput("offline table", path, f"is not a Parquet file: {error}") from error
        where = f"offline table {path}"
        check_space(table.schema, space, where)
        return table["item_id"], records_of(table, space, where), committed_of(table)


def _names(encoded: Any, rows: npt.NDArray[np.int64]) -> list[str]:
    """The ids of some rows of a dictionary-encoded column."""
    out: list[str] = encoded.dictionary.take(encoded.indices.take(pa.array(rows))).to_pylist()
    return out


def _is_file(path: str) -> bool:
    return path.endswith(".parquet")


def _digest(window: Window) -> str:
    digest = hashlib.sha256()
    for item_id in window.item_ids:
        encoded = item_id.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    digest.update(window.records.tobytes())
    return digest.hexdigest()[:16]


def _to_parquet(window: Window) -> bytes:
    sink = io.BytesIO()
    pq.write_table(to_table(window), sink, compression="zstd")
    return sink.getvalue()
