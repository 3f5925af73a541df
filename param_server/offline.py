"""The offline table: every committed record with its sequence and its time, as Parquet.

Which files: param_server.offline_files; what one holds: param_server.record_file. A record may lie in several
files (a window that was announced again, a backfill that the window stream brought too); a reader counts it
once, by item and sequence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.codec import Rows, is_tombstone
from contracts.errors import InvalidInput, NotFound, Unavailable
from contracts.space import Space
from contracts.window import Window
from param_server.offline_files import Listing, OfflineFiles
from param_server.record_file import check_space, committed_of, records_of, space_of, to_table

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRIES = 20  # of a reading that compactions disturb
T = TypeVar("T")


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


class OfflineRows(NamedTuple):
    """K rows of files: dictionary-encoded ids, records (K,), committed_ms (K,)."""

    item_ids: pa.DictionaryArray
    records: Rows
    committed_ms: npt.NDArray[np.int64]

    def names(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The ids of some rows."""
        out: list[str] = self.item_ids.dictionary.take(self.item_ids.indices.take(pa.array(rows))).to_pylist()
        return out

    def newest(self) -> npt.NDArray[np.int64]:
        """(I,) row of the newest record of each item; of equal sequences the one committed first, as in the
        serving table."""
        codes = np.asarray(self.item_ids.indices)
        # by item, then sequence, then the earliest commit last: the last row of each item wins
        order = np.lexsort((-self.committed_ms, self.records["sequence"], codes))
        out: npt.NDArray[np.int64] = np.sort(order[np.flatnonzero(np.diff(codes[order], append=len(codes)))])
        return out

    def distinct(self) -> npt.NDArray[np.int64]:
        """(R,) rows without those whose item and sequence were committed before, by item, then sequence."""
        codes, sequences = np.asarray(self.item_ids.indices), self.records["sequence"]
        order = np.lexsort((self.committed_ms, sequences, codes))
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(codes[order]) != 0) | (sequences[order][1:] != sequences[order][:-1])
        out: npt.NDArray[np.int64] = order[new]
        return out


class OfflineTable:
    """Windows of all spaces under one root. Blocking I/O: call from a thread."""

    def __init__(self, root: str) -> None:
        self.files = OfflineFiles(root)

    def space(self, space_id: str) -> Space:
        """The space that the files under an id are of; NotFound where there are none, UnknownVersion."""

        def read(listing: Listing) -> Space | None:
            for name in listing.live:
                where = f"offline table {self.files.path(space_id, name)}"
                return space_of(self.files.head(space_id, name).schema.to_arrow_schema(), where)
            return None

        if (found := self.undisturbed(space_id, read)) is None:
            raise NotFound("offline table of space", space_id)
        return found

    def append(self, window: Window, name: str) -> str:
        """Store a window under a name of the caller's (letters, digits, `._-`) -> the file's path.

        Idempotent: the same ids and records under the same name give one file, whenever they were
        committed. A crash leaves the whole file or none.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput("name", name, "must be 1 to 128 of letters, digits, '.', '_' and '-'")
        name = f"{name}-{digest_of(window)}.parquet"
        if self.files.has(window.space.id, name):
            return self.files.path(window.space.id, name)
        return self.files.write(window.space.id, name, to_table(window))

    def read(self, space: Space) -> tuple[list[str], Rows]:
        """The newest live records of a space: K distinct ids and (K,) records.

        Where two records of an item have equal sequences the one committed first stays, as in the serving
        table. Raises SpaceMismatch, UnknownVersion, InvalidInput (names the file).
        """
        rows = self.rows(space)
        newest = rows.newest()
        live = newest[~is_tombstone(rows.records[newest])]
        return rows.names(live), rows.records[live]

    def read_newest(self, space: Space) -> tuple[list[str], Rows]:
        """As `read`, deleted items with their tombstones included: what the serving table should hold."""
        rows = self.rows(space)
        newest = rows.newest()
        return rows.names(newest), rows.records[newest]

    def read_versions(self, space: Space) -> OfflineVersions:
        """Every record that has ever been an item's newest, tombstones included: V by item, then by time.

        A record that was committed after one of its item with an equal or higher sequence was never seen by
        a reader, and is left out. The last version of each item is the one that `read` gives.
        Raises SpaceMismatch, UnknownVersion, InvalidInput (names the file).
        """
        rows = self.rows(space)
        records = rows.records
        codes = np.asarray(rows.item_ids.indices).astype(np.int64)
        # of equal commits and sequences the row read last comes first: it is the one that `read` gives
        order = np.lexsort((-np.arange(len(codes)), records["sequence"], rows.committed_ms, codes))
        distinct, ranks = np.unique(records["sequence"], return_inverse=True)
        keys = codes[order] * len(distinct) + ranks[order]  # grows over items: a running maximum per item
        before = np.maximum.accumulate(np.concatenate([np.full(1, -1), keys]))[:-1]
        kept = order[keys > before]
        return OfflineVersions(rows.names(kept), records[kept], rows.committed_ms[kept])

    def rows(self, space: Space) -> OfflineRows:
        """All rows of the files that count, in the order of their names."""

        def read(listing: Listing) -> OfflineRows:
            return self.rows_of(space, list(listing.live))

        return self.undisturbed(space.id, read)

    def rows_of(self, space: Space, names: list[str]) -> OfflineRows:
        """All rows of some files. FileNotFoundError where one is gone."""
        parts = [self._file(space, name) for name in names]
        ids = pa.chunked_array([chunk for part in parts for chunk in part[0].chunks], pa.string())
        records = np.concatenate([np.zeros(0, space.dtype), *(part[1] for part in parts)])
        committed = np.concatenate([np.zeros(0, np.int64), *(part[2] for part in parts)])
        return OfflineRows(pc.dictionary_encode(ids.combine_chunks()), records, committed)

    def undisturbed(self, space_id: str, read: Callable[[Listing], T]) -> T:
        """What `read` makes of the files that count, again where a compaction ended meanwhile.

        A listing that goes on while a compacted file appears and what it replaces goes may show neither; the
        next listing shows the new file then. Unavailable where the folder does not come to rest.
        """
        for _ in range(_TRIES):
            try:
                listing = self.files.listing(space_id)
                result = read(listing)
                if self.files.listing(space_id).compacted <= listing.compacted:
                    return result
            except FileNotFoundError:
                continue
        raise Unavailable(f"offline table of space {space_id}: its files change faster than they are read")

    def _file(self, space: Space, name: str) -> tuple[pa.ChunkedArray, Rows, npt.NDArray[np.int64]]:
        table: Any = self.files.read(space.id, name)
        where = f"offline table {self.files.path(space.id, name)}"
        check_space(table.schema, space, where)
        return table["item_id"], records_of(table, space, where), committed_of(table)


def digest_of(window: Window) -> str:
    """16 hex characters of a window's ids and records."""
    digest = hashlib.sha256()
    for item_id in window.item_ids:
        encoded = item_id.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    digest.update(window.records.tobytes())
    return digest.hexdigest()[:16]
