"""ID rows as a Parquet file: columns item_id (string) and row (fixed-size binary, contracts.codec)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.codec import Rows, check_id_rows, id_row_dtype
from contracts.errors import InvalidInput, NotFound
from param_server.columns import binary_column, read_binary

BASE_KEY = b"repcenter.base"  # in an exported overlay's metadata: the name of the table that it lies over


def write_id_rows(path: Path, item_ids: Sequence[str], rows: Rows) -> None:
    """item_ids: K distinct ids; rows: (K,) of `id_row_dtype`. Replaces the file in one step."""
    if len(item_ids) != len(rows):
        raise InvalidInput("item_ids", len(item_ids), f"must match {len(rows)} rows")
    if len(set(item_ids)) != len(item_ids):
        raise InvalidInput("item_ids", len(item_ids), "must be distinct")
    part = path.with_name(path.name + ".part")
    table = pa.table({"item_id": pa.array(item_ids, pa.string()), "row": binary_column(rows)})
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)


def read_id_rows(path: Path, codec: int, dim: int) -> tuple[list[str], Rows]:
    """K ids and their rows (K,), in the file's order. NotFound, InvalidInput (names file and column),
    UnknownVersion."""
    dtype: np.dtype[np.void] = id_row_dtype(codec, dim)
    try:
        table = pq.read_table(path, columns=["item_id", "row"])
    except FileNotFoundError as error:
        raise NotFound("file of ID rows", str(path)) from error
    except (pa.ArrowInvalid, KeyError) as error:
        raise InvalidInput(path.name, str(path), f"is not a file of ID rows: {error}") from error
    if table.column_names != ["item_id", "row"]:
        raise InvalidInput(path.name, table.column_names, "must have the columns item_id and row")
    if table.schema.field("item_id").type != pa.string() or table["item_id"].null_count:
        raise InvalidInput(f"{path.name}.item_id", str(table.schema), "must be strings without nulls")
    rows = read_binary(table["row"], dtype, f"{path.name}.row")
    check_id_rows(rows, codec)
    return table["item_id"].to_pylist(), rows
