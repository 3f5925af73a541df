"""Pictures kept as files under the data directory; no path leaves it, nor does a link."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES
from training.data.table import Table


class PictureFiles:
    """Pictures by row at paths relative to `root`, None where the row has none."""

    def __init__(self, root: Path, paths: Sequence[str | None], where: str) -> None:
        self._root = root.resolve()
        self._paths = paths
        self._where = where

    def read(self, row: int) -> bytes | None:
        """The file's bytes; InvalidInput where it left the directory or vanished since the load."""
        name = self._paths[row]
        if name is None:
            return None
        field = f"{self._where}, row {row}"
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise InvalidInput(field, name, "leaves the data directory")
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise InvalidInput(field, name, f"cannot be read ({error.strerror})") from error
        if len(data) > MAX_IMAGE_BYTES:
            raise TooLarge(field, path.stat().st_size, MAX_IMAGE_BYTES, "bytes")
        return data or None


def picture_files(root: Path, table: Table, column: str) -> PictureFiles:
    """The files a column names, each checked to exist under `root`. Null or empty: no picture.

    Every directory is listed once, so a large catalogue costs no call per file.
    """
    root = root.resolve()
    listed: dict[str, dict[str, bool]] = {}
    paths: list[str | None] = []
    for row, name in enumerate(table.column(column).to_pylist()):
        if not name:
            paths.append(None)
            continue
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name or "\\" in name:
            raise table.error(column, row, name, "must be a path inside the data directory")
        parent = str(pure.parent)
        if parent not in listed:
            listed[parent] = _entries(root, parent)
        if pure.name not in listed[parent]:
            raise table.error(column, row, name, "no such file in the data directory")
        if listed[parent][pure.name] and not (root / name).resolve().is_relative_to(root):
            raise table.error(column, row, name, "is a link that leaves the data directory")
        paths.append(name)
    return PictureFiles(root, paths, f"{table.name}: column '{column}'")


def _entries(root: Path, parent: str) -> dict[str, bool]:
    """The files of one directory under root: name -> is a link. Empty where it is absent or outside."""
    directory = (root / parent).resolve()
    if not directory.is_relative_to(root) or not directory.is_dir():
        return {}
    with os.scandir(directory) as entries:
        return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}
