"""Pictures kept in tar files, members named by item id. Nothing is ever unpacked."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_Place = tuple[Path, int, int, str]  # file, offset, bytes, member's name


class PictureTar:
    """Pictures by row out of uncompressed tar files; their headers are read once, at the first read."""

    def __init__(self, paths: tuple[Path, ...], row_of: Mapping[str, int]) -> None:
        self._paths = paths
        self._row_of = row_of
        self._index: dict[int, _Place] | None = None
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes | None:
        """The member's bytes. InvalidInput names a broken tar, or two members for one item."""
        place = self._places().get(row)
        if place is None:
            return None
        path, offset, size, name = place
        if size > MAX_IMAGE_BYTES:
            raise TooLarge(f"{path.name}: member '{name}'", size, MAX_IMAGE_BYTES, "bytes")
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise InvalidInput(f"{path.name}: member '{name}'", len(data), f"is cut short of {size} bytes")
        return data or None

    def _places(self) -> dict[int, _Place]:
        with self._lock:
            if self._index is None:
                index: dict[int, _Place] = {}
                for path in self._paths:
                    self._add(path, index)
                self._index = index
            return self._index

    def _add(self, path: Path, index: dict[int, _Place]) -> None:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    row = self._row(member.name) if member.isreg() and not member.issparse() else None
                    if row is None:
                        continue
                    before = index.get(row)
                    # a member that was appended again under its own name replaces the first, as tar has it
                    if before is not None and (before[0], before[3]) != (path, member.name):
                        raise InvalidInput(f"{path.name}: member", member.name, f"'{before[3]}' is there too")
                    index[row] = (path, member.offset_data, member.size, member.name)
        except (tarfile.TarError, OSError) as error:
            raise InvalidInput(path.name, str(path), f"is not a readable, plain tar ({error})") from error

    def _row(self, name: str) -> int | None:
        """The row that a member's name stands for: its stem with all folders, without the first, or alone."""
        stem, dot, suffix = name.removeprefix("./").rpartition(".")
        if not dot or f".{suffix.lower()}" not in _SUFFIXES:
            return None
        for candidate in (stem, stem.partition("/")[2], stem.rpartition("/")[2]):
            if candidate in self._row_of:
                return self._row_of[candidate]
        return None
