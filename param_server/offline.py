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
from typing import Any

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
        if not self._filesystem.isdir(self._folder(space)):
            return [], np.zeros(0, space.dtype)
        self._filesystem.invalidate_cache(self._folder(space))
        paths = sorted(p for p in self._filesystem.ls(self._folder(space), detail=False) if _is_file(p))
        parts = [self._read_file(path, space) for path in paths]
        if not parts:
            return [], np.zeros(0, space.dtype)
        ids = pa.chunked_array([chunk for part in parts for chunk in part[0].chunks], pa.string())
        records: Rows = np.concatenate([part[1] for part in parts])
        committed = np.concatenate([part[2] for part in parts])
        encoded = pc.dictionary_encode(ids.combine_chunks())
        codes = np.asarray(encoded.indices)
        # by item, then sequence, then the earliest commit last: the last row of each item wins
        order = np.lexsort((-committed, records["sequence"], codes))
        last = order[np.flatnonzero(np.diff(codes[order], append=len(codes)))]
        winners = np.sort(last[~is_tombstone(records[last])])
        return encoded.dictionary.take(encoded.indices.take(pa.array(winners))).to_pylist(), records[winners]

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
