"""The files of an offline table: their names, which of them count, whole or not there at all (fsspec).

They lie in `<root>/<space id>/`:

| name                                 | holds                                                           |
| ------------------------------------ | --------------------------------------------------------------- |
| windows-<after>_<last>.parquet       | every window of the stream behind `after`, up to `last`         |
| resync-<after>-<part>-<digest>.parquet | rows of the serving table, where the stream had lost windows  |
| compact[-<last>]-<digest>.parquet    | rows of other files; its metadata names them and their ranges   |
| <name>-<digest>.parquet              | one window of a backfill or a load                              |
| anything else.parquet                | an export that was put there; never compacted                   |

The newest `last` of the names is how far the table follows the window stream: no other state says so, so a
sink that is killed goes on behind its newest whole file. A file that a compacted one names does not count,
so there is no moment at which a reader sees rows twice or not at all, whenever the compaction is killed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InvalidInput
from param_server.stream_id import Range, StreamId, joined
from param_server.whole_files import write_whole

COMPACTED_KEY = b"repcenter.offline.compacted"
_WINDOWS = re.compile(r"windows-(\d+-\d+)_(\d+-\d+)\.parquet")
_COMPACT = re.compile(r"compact-(?:(\d+-\d+)-)?[0-9a-f]{16}\.parquet")
_OWN = re.compile(r"(windows-\d+-\d+_\d+-\d+|.+-[0-9a-f]{16})\.parquet")
_SPACE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Listing:
    """What lies in a space's folder. live: names that count, by name, and their bytes; superseded: names that
    a compacted file has taken the rows of; compacted: names of compacted files; ranges: of the stream."""

    live: dict[str, int]
    superseded: tuple[str, ...]
    compacted: frozenset[str]
    ranges: list[Range]


def windows_name(covered: Range) -> str:
    return f"windows-{covered.after.padded}_{covered.last.padded}.parquet"


def compact_name(ranges: list[Range], digest: str) -> str:
    last = f"{max(r.last for r in ranges).padded}-" if ranges else ""
    return f"compact-{last}{digest}.parquet"


def is_own(name: str) -> bool:
    """Whether a file's name was given here, so that its content is told by it."""
    return _OWN.fullmatch(name) is not None


def range_of(name: str) -> Range | None:
    """What part of the stream a file of windows holds."""
    found = _WINDOWS.fullmatch(name)
    return Range(StreamId.parse(found[1]), StreamId.parse(found[2])) if found else None


class OfflineFiles:
    """Files of all spaces under one root, a directory or any fsspec URL. Blocking I/O."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._filesystem: Any
        self._filesystem, base = fsspec.core.url_to_fs(root)
        self._base = base.rstrip("/")

    def space_ids(self) -> list[str]:
        """Ids of the spaces that have a folder."""
        return sorted(name for name in self._names(self._base) if _SPACE.fullmatch(name))

    def path(self, space_id: str, name: str) -> str:
        return f"{self._base}/{space_id}/{name}"

    def names(self, space_id: str) -> dict[str, int]:
        """Parquet files by name, with their bytes; those that do not count among them."""
        found = self._names(f"{self._base}/{space_id}")
        return {name: size for name, size in sorted(found.items()) if name.endswith(".parquet")}

    def checkpoint(self, space_id: str) -> StreamId | None:
        """How far the files follow the window stream; None where they do not yet."""
        lasts = []
        for name in self.names(space_id):
            if (covered := range_of(name)) is not None:
                lasts.append(covered.last)
            elif (found := _COMPACT.fullmatch(name)) is not None and found[1]:
                lasts.append(StreamId.parse(found[1]))
        return max(lasts, default=None)

    def listing(self, space_id: str) -> Listing:
        """What counts now. FileNotFoundError where a compaction ended meanwhile: list again."""
        names = self.names(space_id)
        compacted = frozenset(name for name in names if _COMPACT.fullmatch(name))
        ranges = [covered for name in names if (covered := range_of(name)) is not None]
        replaced: set[str] = set()
        for name in compacted:
            gone, covered_ranges = self._replaces(space_id, name)
            replaced |= gone
            ranges += covered_ranges
        return Listing(
            {name: size for name, size in names.items() if name not in replaced},
            tuple(name for name in names if name in replaced),
            compacted - replaced,
            joined(ranges),
        )

    def ranges_of(self, space_id: str, names: Iterable[str]) -> list[Range]:
        """What parts of the stream some files hold."""
        out: list[Range] = []
        for name in names:
            if (covered := range_of(name)) is not None:
                out.append(covered)
            elif _COMPACT.fullmatch(name):
                out += self._replaces(space_id, name)[1]
        return joined(out)

    def read(self, space_id: str, name: str, columns: list[str] | None = None) -> pa.Table:
        """A file's rows and metadata. FileNotFoundError; InvalidInput where it is not Parquet."""
        path = self.path(space_id, name)
        try:
            if columns is None:
                return pq.read_table(io.BytesIO(self._filesystem.cat_file(path)))
            with self._filesystem.open(path, "rb") as stream:
                return pq.read_table(stream, columns=columns)
        except pa.ArrowInvalid as error:
            raise InvalidInput("offline table", path, f"is not a Parquet file: {error}") from error

    def head(self, space_id: str, name: str) -> pq.FileMetaData:
        """A file's schema, metadata and count of rows. FileNotFoundError, InvalidInput."""
        path = self.path(space_id, name)
        try:
            with self._filesystem.open(path, "rb") as stream:
                return pq.read_metadata(stream)
        except pa.ArrowInvalid as error:
            raise InvalidInput("offline table", path, f"is not a Parquet file: {error}") from error

    def write(self, space_id: str, name: str, table: pa.Table) -> str:
        """A whole file or none, in place of one of the same name -> its path."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        path = self.path(space_id, name)
        write_whole(self._filesystem, path, sink.getbuffer())
        return path

    def has(self, space_id: str, name: str) -> bool:
        """Whether there is such a file."""
        found: bool = self._filesystem.exists(self.path(space_id, name))
        return found

    def delete(self, space_id: str, names: Iterable[str]) -> None:
        """Delete files; those that are gone already are passed over."""
        for name in names:
            try:
                self._filesystem.rm_file(self.path(space_id, name))
            except FileNotFoundError:
                continue

    def sweep(self, space_id: str, prefixes: tuple[str, ...]) -> int:
        """Delete halves of files that a killed process left -> how many. Only where no other writes them."""
        names = self._names(f"{self._base}/{space_id}")
        halves = [n for n in names if n.endswith(".part") and n.startswith(prefixes)]
        self.delete(space_id, halves)
        return len(halves)

    def _names(self, folder: str) -> dict[str, int]:
        self._filesystem.invalidate_cache(folder)
        try:
            found = self._filesystem.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {e["name"].rstrip("/").rpartition("/")[2]: int(e.get("size") or 0) for e in found}

    def _replaces(self, space_id: str, name: str) -> tuple[set[str], list[Range]]:
        path, metadata = self.path(space_id, name), self.head(space_id, name).metadata or {}
        try:
            stored = json.loads(metadata[COMPACTED_KEY])
            ranges = [Range(StreamId.parse(a), StreamId.parse(b)) for a, b in stored["ranges"]]
            return set(stored["replaces"]), ranges
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidInput("offline table", path, f"is no compacted file: {error}") from error


def compacted_metadata(replaces: Iterable[str], ranges: list[Range]) -> bytes:
    """What a compacted file says of the files that it stands for."""
    spans = [[str(r.after), str(r.last)] for r in ranges]
    return json.dumps({"replaces": sorted(replaces), "ranges": spans}).encode()
