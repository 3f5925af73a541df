"""Tensors as the Open Inference Protocol writes them: in JSON, and as raw bytes.

Raw bytes are little-endian and row by row; an element of BYTES is its length as a u32, then itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput

DTYPES = {"INT64": "<i8", "FP32": "<f4", "UINT8": "|u1"}
_LENGTH_BYTES = 4

Numbers = npt.NDArray[np.generic]
Values = list[str] | list[bytes] | Numbers


@dataclass(frozen=True, eq=False)
class Tensor:
    """values: flat, row by row; strings for BYTES, bytes where they are no text; else an array of DTYPES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values


def tensor(name: str, datatype: str, shape: Sequence[int], values: Values) -> Tensor:
    """A tensor whose values fill its shape, or InvalidInput."""
    if any(size < 0 for size in shape) or math.prod(shape) != len(values):
        raise InvalidInput(f"{name}.shape", list(shape), f"does not hold the {len(values)} values given")
    return Tensor(name, datatype, tuple(shape), values)


def values_of_json(name: str, datatype: str, data: Sequence[object]) -> Values:
    """JSON data, nested row by row or flat, to flat values. Raises InvalidInput that names the tensor."""
    flat: Sequence[object] = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(row, list) for row in flat):
            raise InvalidInput(name, data, "mixes rows and values")
        flat = [value for row in flat if isinstance(row, list) for value in row]
    if datatype == "BYTES":
        for i, value in enumerate(flat):
            if not isinstance(value, str):
                raise InvalidInput(f"{name}[{i}]", value, "must be a string")
        return [value for value in flat if isinstance(value, str)]
    return _numbers(name, datatype, flat)


def _numbers(name: str, datatype: str, flat: Sequence[object]) -> Numbers:
    try:
        found = np.asarray(flat) if flat else np.zeros(0, dtype=DTYPES[datatype])
    except (ValueError, OverflowError) as error:
        raise InvalidInput(name, flat, f"must be numbers of {datatype}") from error
    wanted = np.dtype(DTYPES[datatype])
    kinds = "iuf" if wanted.kind == "f" else "i"
    if found.ndim != 1 or found.dtype.kind not in kinds:  # integers beyond 64 bits are objects
        raise InvalidInput(name, flat, f"must be numbers of {datatype}")
    with np.errstate(over="ignore"):  # infinite then, which a request's checks refuse
        return found.astype(wanted)


def values_of_bytes(name: str, datatype: str, raw: bytes, *, text: bool = True) -> Values:
    """Raw bytes to flat values; text: BYTES become strings. Raises InvalidInput that names the tensor."""
    if datatype == "BYTES":
        return decoded(name, _elements(name, raw)) if text else _elements(name, raw)
    wanted = np.dtype(DTYPES[datatype])
    if len(raw) % wanted.itemsize:
        raise InvalidInput(name, len(raw), f"bytes are no whole number of {datatype}")
    values: Numbers = np.frombuffer(raw, dtype=wanted)
    return values


def decoded(name: str, elements: Sequence[bytes]) -> list[str]:
    """Elements of BYTES as strings; InvalidInput where one is not UTF-8."""
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        raise InvalidInput(name, error.object, "is not valid UTF-8") from error


def _elements(name: str, raw: bytes) -> list[bytes]:
    elements: list[bytes] = []
    at, end = 0, len(raw)
    while at < end:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "little")
        if start > end or at > end:
            raise InvalidInput(name, end, f"bytes end within element {len(elements)}")
        elements.append(raw[start:at])
    return elements


def bytes_of_values(values: Values) -> bytes:
    """The raw bytes of `values_of_bytes`."""
    if isinstance(values, list):
        elements = [value.encode() if isinstance(value, str) else value for value in values]
        return b"".join(len(e).to_bytes(_LENGTH_BYTES, "little") + e for e in elements)
    return values.tobytes()
