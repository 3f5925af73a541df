"""JSON objects, as requests said them, -> one column per name, as data files hold them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
import pyarrow as pa

from contracts.errors import InvalidInput
from training.data.table import Array


def said_columns(
    objects: pa.ChunkedArray, taken: Collection[str], *, numbers: bool = False
) -> tuple[dict[str, Array], int]:
    """(K,) JSON objects or "" -> columns (K,) by name, and how many names were left out: they mean
    something else.

    A column is of float64 where every value is a number, else of strings, lists joined with "|".
    numbers: values are lists of numbers, and columns are of such lists.
    """
    columns: dict[str, list[Any]] = {}
    left_out: set[str] = set()
    values = objects.to_pylist()
    for row, text in enumerate(values):
        for name, value in (_object(text) if text else {}).items():
            if name in taken or name.startswith("served_"):
                left_out.add(name)
            else:
                columns.setdefault(name, [None] * len(values))[row] = value
    if numbers:
        return {n: pa.array(v, pa.list_(pa.float32())) for n, v in columns.items()}, len(left_out)
    return {name: _column(cells) for name, cells in columns.items()}, len(left_out)


def _object(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("score log", text, "holds no JSON") from error
    if not isinstance(found, dict):
        raise InvalidInput("score log", text, "holds no JSON object")
    return found


def _column(cells: list[Any]) -> Array:
    if all(cell is None or isinstance(cell, int | float) for cell in cells):
        return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    return pa.array([None if cell is None else _text(cell) for cell in cells], pa.string())


def _text(cell: Any) -> str:
    return "|".join(map(str, cell)) if isinstance(cell, list) else str(cell)
