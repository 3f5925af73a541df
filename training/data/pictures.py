"""The pictures of a catalogue by row, wherever they lie.

Sought in this order, the first found is used:

    items.parquet   column `image`, binary      the pictures themselves
    items.parquet   column `image`, string      paths relative to the directory
    images*.parquet item_id + one binary column
    images*.tar     members named <item_id>.jpg (jpeg, png, webp), in any folder, not compressed
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InvalidInput
from training.data.picture_column import PictureColumn, PictureSource
from training.data.picture_files import picture_files
from training.data.picture_tar import PictureTar
from training.data.table import is_bytes, is_text, read_table

IMAGE, IMAGE_URL = "image", "image_url"


class Pictures(Protocol):
    """Picture bytes by row. Safe to read from several threads."""

    def read(self, row: int) -> bytes | None:
        """The file's bytes, undecoded; None where the row has no picture. Bounded by MAX_IMAGE_BYTES."""
        ...


class NoPictures:
    """A catalogue without any picture."""

    def read(self, row: int) -> None:
        return None


def find_pictures(directory: Path, row_of: Mapping[str, int]) -> Pictures:
    """The pictures of the catalogue in `directory`. row_of: item id -> row."""
    items = directory / "items.parquet"
    if IMAGE in pq.read_schema(items).names:
        return column_pictures(items, IMAGE)
    if shards := sorted(directory.glob("images*.parquet")):
        return _sharded(shards, row_of)
    if tars := sorted(directory.glob("images*.tar")):
        return PictureTar(tuple(tars), row_of)
    return NoPictures()


def column_pictures(path: Path, column: str) -> Pictures:
    """Pictures of one column, by row: bytes, or paths relative to the file's directory."""
    kind = pq.read_schema(path).field(column).type
    if is_bytes(kind):
        rows = pq.read_metadata(path).num_rows
        return PictureColumn((PictureSource(path, column),), np.arange(rows, dtype=np.int64))
    if is_text(kind) or (pa.types.is_dictionary(kind) and is_text(kind.value_type)):
        return picture_files(path.parent, read_table(path, [column]), column)
    if pa.types.is_null(kind):
        return NoPictures()
    raise InvalidInput(f"{path.name}: column '{column}'", str(kind), "must be bytes or relative paths")


def _sharded(paths: list[Path], row_of: Mapping[str, int]) -> PictureColumn:
    """Pictures of further parquet files, joined by item_id; those of unknown items are left out."""
    where = np.full(len(row_of), -1, dtype=np.int64)
    sources, start = [], 0
    for path in paths:
        table = read_table(path, ["item_id"])
        kinds = pq.read_schema(path)
        binary = [name for name in kinds.names if is_bytes(kinds.field(name).type)]
        if len(binary) != 1 and IMAGE not in binary:
            raise InvalidInput(path.name, kinds.names, "must have one binary column, or one named 'image'")
        codes, ids = table.codes("item_id")
        row = np.array([row_of.get(i, -1) for i in ids], dtype=np.int64)[codes]
        known = np.flatnonzero(row >= 0)
        _, first = np.unique(row[known], return_index=True)
        repeated = np.ones(len(known), dtype=bool)
        repeated[first] = False
        bad = np.zeros(table.rows, dtype=bool)
        bad[known[repeated | (where[row[known]] >= 0)]] = True
        table.refuse("item_id", bad, "has a picture already")
        where[row[known]] = start + known
        sources.append(PictureSource(path, IMAGE if IMAGE in binary else binary[0]))
        start += table.rows
    return PictureColumn(tuple(sources), where)
