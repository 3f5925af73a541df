"""Structured rows <-> fixed-size binary columns of Arrow, without copying row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from contracts.codec import Rows
from contracts.errors import InvalidInput


def binary_column(rows: Rows) -> pa.Array:
    """(K,) of a structured dtype -> K values of its bytes."""
    size = rows.dtype.itemsize
    return pa.Array.from_buffers(pa.binary(size), len(rows), [None, pa.py_buffer(rows.tobytes())])


def read_binary(column: pa.ChunkedArray, dtype: np.dtype[np.void], where: str) -> Rows:
    """K values -> (K,) of dtype. InvalidInput names `where` when type or width differ."""
    if column.type != pa.binary(dtype.itemsize) or column.null_count:
        raise InvalidInput(where, str(column.type), f"must be fixed_size_binary[{dtype.itemsize}], no nulls")
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype, len(chunk), chunk.offset * dtype.itemsize)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
