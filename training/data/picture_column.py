"""Pictures kept as bytes in parquet columns, read a row group at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import TooLarge
from contracts.images import MAX_IMAGE_BYTES
from training.data.table import Array

CACHE_BYTES = 2**30


@dataclass(frozen=True)
class PictureSource:
    """One binary column of one file."""

    path: Path
    column: str


class PictureColumn:
    """Pictures by row out of one or more columns; the last row groups stay decoded, up to CACHE_BYTES.

    where: (I,) int64, the row's position over all sources one after the other, -1 = no picture.
    """

    def __init__(self, sources: tuple[PictureSource, ...], where: npt.NDArray[np.int64]) -> None:
        self._where = where
        self._groups: list[tuple[PictureSource, int]] = []
        sizes = [0]
        for source in sources:
            metadata = pq.read_metadata(source.path)
            for group in range(metadata.num_row_groups):
                self._groups.append((source, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._starts = np.cumsum(sizes)
        self._decoded: OrderedDict[int, Array] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes | None:
        """The row's bytes; None where null or empty."""
        position = int(self._where[row])
        if position < 0:
            return None
        group = int(np.searchsorted(self._starts, position, side="right")) - 1
        cell = self._group(group)[position - int(self._starts[group])]
        if not cell.is_valid:
            return None
        size = cell.as_buffer().size
        if size > MAX_IMAGE_BYTES:
            source = self._groups[group][0]
            raise TooLarge(
                f"{source.path.name}: column '{source.column}', picture {row}", size, MAX_IMAGE_BYTES, "bytes"
            )
        return cell.as_py() or None

    def _group(self, group: int) -> Array:
        with self._lock:
            if group in self._decoded:
                self._decoded.move_to_end(group)
                return self._decoded[group]
            source, number = self._groups[group]
            with pq.ParquetFile(source.path) as file:
                values = file.read_row_group(number, columns=[source.column])[source.column]
            decoded = pa.concat_arrays(values.cast(pa.large_binary()).chunks)
            self._decoded[group] = decoded
            while len(self._decoded) > 1 and sum(a.nbytes for a in self._decoded.values()) > CACHE_BYTES:
                self._decoded.popitem(last=False)
            return decoded
