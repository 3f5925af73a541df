"""Vectors that somebody else computed: a Parquet file of them as a source of records, without an encoder.

| column                                  | becomes                                                 |
| --------------------------------------- | ------------------------------------------------------- |
| item_id: string                         | the id                                                  |
| a list of floats, all of one length     | a modality of that name and dim; null or zeros: missing |
| a string, or a list of strings          | a categorical attribute of 1 or LIST_SLOTS slots        |
| an integer, float or boolean            | a numeric attribute; null or NaN: absent                |

The space's encoder digest is the sha256 of the canonical JSON {"kind": "own vectors", "name", "version"}: the
name of whatever made the vectors, and a version that must change when its vectors stop being comparable.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.codec import CONTENT_INT8, encode_records
from contracts.errors import InvalidInput, NotFound, RepcenterError
from contracts.guard import Guard, choose_probes, guard_bytes, parse_guard
from contracts.items import AttributeField, attribute_slots, check_item_id
from contracts.manifest import canonical
from contracts.space import Modality, Space, buckets_for
from contracts.window import Window
from param_server import keys
from param_server.connection import redis_errors
from param_server.load_source import Batch
from param_server.record_file import batches, file_identity, open_parquet
from param_server.server import Server

ID_COLUMN = "item_id"
LIST_SLOTS = 4
ROOM = 1.5  # items that a new space is made for, in items of the file that it is made from
_PROBE_ROWS = 4_096

Matrix = npt.NDArray[np.float32]


def own_digest(name: str, version: str) -> str:
    """The encoder digest of vectors made elsewhere, 64 hex characters."""
    for field, value in (("name", name), ("version", version)):
        if not 1 <= len(value) <= 128:
            raise InvalidInput(field, value, "must have 1 to 128 characters")
    return hashlib.sha256(canonical({"kind": "own vectors", "name": name, "version": version})).hexdigest()


@dataclass(frozen=True)
class VectorFile:
    """A file's columns. dims: by modality, in the file's order; identity: changes with the file."""

    path: Path
    rows: int
    dims: dict[str, int]
    attributes: tuple[AttributeField, ...]
    identity: str

    def space(
        self,
        digest: str,
        existing: Sequence[Space] = (),
        *,
        codec: int = CONTENT_INT8,
        capacity: int | None = None,
    ) -> Space:
        """The space of the file's vectors: that of `existing` with this digest and columns, else a
        new one made for `capacity` items. InvalidInput where the digest's spaces have other columns."""
        modalities = tuple(Modality(name, dim) for name, dim in self.dims.items())
        buckets = buckets_for(capacity or max(1, int(self.rows * ROOM)))
        made = Space(digest, modalities, self.attributes, codec, buckets=buckets)
        same = [s for s in existing if s.encoder_digest == digest]
        for space in same:
            if (space.modalities, space.attributes, space.codec) == (modalities, self.attributes, codec):
                return space
        if same:
            raise InvalidInput(
                "version",
                self.path.name,
                f"space {same[0].id} of this name and version is {same[0].header().decode()}; "
                "vectors of another shape need another version",
            )
        return made


def open_vectors(path: Path, named: Sequence[AttributeField] = ()) -> VectorFile:
    """Read a file's schema. named: attributes instead of those that the columns' types tell.

    Raises NotFound, InvalidInput (file and column).
    """
    with open_parquet(path) as parquet:
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    if ID_COLUMN not in schema.names or schema.field(ID_COLUMN).type not in (pa.string(), pa.large_string()):
        raise InvalidInput(f"{path.name}.{ID_COLUMN}", schema.names, "must be a column of strings")
    instead = {f.name: f for f in named}
    dims: dict[str, int] = {}
    attributes: list[AttributeField] = []
    for column in schema:
        if column.name == ID_COLUMN:
            continue
        if _is_vector(column.type):
            dims[column.name] = _dim(path, column)
        else:
            attributes.append(
                instead.pop(column.name) if column.name in instead else _attribute(path, column)
            )
    if instead:
        raise NotFound(f"attribute column of {path.name}", ", ".join(instead))
    if not dims:
        raise InvalidInput(path.name, schema.names, "must have a column of lists of floats")
    identity = hashlib.sha256(file_identity(path).encode()).hexdigest()[:32]
    return VectorFile(path, rows, dims, tuple(attributes), identity)


def probes_of(file: VectorFile, seed: int = 0) -> dict[str, Matrix]:
    """Probe vectors for the guard, from the file's first rows."""
    for _, table in batches(file.path, list(file.dims), 0, _PROBE_ROWS):
        blocks, bad = _vectors(table, file.dims)
        for name, rows in bad.items():
            blocks[name][list(rows)] = 0
        return choose_probes({name: _unit(block) for name, block in blocks.items()}, seed)
    return {}


@dataclass(frozen=True)
class VectorSource:
    """A file as a Source of records of `space`."""

    file: VectorFile
    space: Space
    guard: Guard

    @property
    def rows(self) -> int:
        return self.file.rows

    @property
    def identity(self) -> str:
        return self.file.identity

    def batches(self, first: int, most: int, sequence: int) -> Iterator[Batch]:
        """Unusable rows are refused one by one: a bad id, an id that comes twice, a value that is not finite
        (named by its column), no modality at all. Of an id in two batches the first stays."""
        columns = [ID_COLUMN, *self.file.dims, *(f.name for f in self.file.attributes)]
        for end, table in batches(self.file.path, columns, first, most):
            yield self._batch(end, table, sequence)

    def _batch(self, end: int, table: pa.Table, sequence: int) -> Batch:
        ids, first = table[ID_COLUMN].to_pylist(), end - table.num_rows
        reasons: dict[int, str] = {}
        _check_ids(ids, reasons)
        blocks, bad = _vectors(table, self.file.dims)
        for name, rows in bad.items():
            for row, reason in rows.items():
                reasons.setdefault(row, f"{name}: {reason}")
        attributes = np.zeros((len(ids), self.space.attribute_slots), np.uint32)
        start = 0
        for f in self.space.attributes:
            slots, broken = _slots(table[f.name], f)
            attributes[:, start : start + f.slots] = slots
            for row in broken:
                reasons.setdefault(row, f"{f.name}: does not fit float32")
            start += f.slots
        units = [_unit(block) for block in blocks.values()]
        empty = ~np.any([block.any(axis=1) for block in units], axis=0)
        for row in np.flatnonzero(empty).tolist():
            reasons.setdefault(row, f"every vector is missing or zero ({', '.join(blocks)})")
        good = np.setdiff1d(np.arange(len(ids)), np.fromiter(reasons, np.int64, len(reasons)))
        vectors = [block[good] for block in units]
        sequences = np.full(len(good), sequence, np.uint64)
        records = encode_records(vectors, sequences, attributes[good], self.space.codec)
        self.guard.mark(vectors, records, self.space)
        window = Window(self.space, [ids[i] for i in good.tolist()], records, time.time_ns() // 1_000_000)
        refused = [
            (ids[row] if isinstance(ids[row], str) else f"row {first + row}", reasons[row])
            for row in sorted(reasons)
        ]
        return Batch(end, table.num_rows, window, refused)


def _check_ids(ids: list[Any], reasons: dict[int, str]) -> None:
    seen: set[str] = set()
    for row, item_id in enumerate(ids):
        try:
            check_item_id(item_id)
        except RepcenterError as error:
            reasons[row] = str(error)
            continue
        if item_id in seen:
            reasons[row] = f"{ID_COLUMN}: comes twice"
        seen.add(item_id)


def _vectors(table: pa.Table, dims: dict[str, int]) -> tuple[dict[str, Matrix], dict[str, dict[int, str]]]:
    """By modality: (K, d) float32, zero where missing or bad; the bad rows and what is wrong with them."""
    blocks: dict[str, Matrix] = {}
    bad: dict[str, dict[int, str]] = {}
    for name, dim in dims.items():
        column = table[name].combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
        there = ~np.asarray(pc.is_null(column)) & (lengths > 0)
        wrong = there & (lengths != dim)
        whole = column.filter(pa.array(there & ~wrong))
        flat = pc.fill_null(pc.list_flatten(whole).cast(pa.float32(), safe=False), float("nan"))
        values = np.asarray(flat, dtype=np.float32).reshape(-1, dim) if len(whole) else np.zeros((0, dim))
        block = np.zeros((len(column), dim), np.float32)
        block[there & ~wrong] = values
        broken = ~np.isfinite(block).all(axis=1)
        block[broken] = 0
        bad[name] = {int(row): f"{lengths[row]} values, must be {dim}" for row in np.flatnonzero(wrong)}
        bad[name] |= {
            int(row): "holds a value that is null or not finite in float32" for row in np.flatnonzero(broken)
        }
        blocks[name] = block
    return blocks, bad


def _unit(block: Matrix) -> Matrix:
    """Rows of length 1, zero rows as they are; by the largest part first: no square overflows."""
    largest = np.abs(block).max(axis=1, keepdims=True, initial=0.0)
    scaled = block / np.where(largest > 0, largest, np.float32(1))
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    out: Matrix = (scaled / np.where(norms > 0, norms, np.float32(1))).astype(np.float32)
    return out


def _slots(column: pa.ChunkedArray, f: AttributeField) -> tuple[npt.NDArray[np.uint32], list[int]]:
    """(K, slots) uint32 of a column and the rows whose number cannot be stored."""
    if f.kind == "numeric":
        wide = np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")), dtype=np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        broken = np.isinf(narrow)
        narrow[broken] = np.nan
        return narrow.view(np.uint32)[:, None], np.flatnonzero(broken).tolist()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = column.to_pylist()
        made = [attribute_slots({f.name: [t for t in v if t]} if v else {}, [f]) for v in values]
        return np.stack(made) if made else np.zeros((0, f.slots), np.uint32), []
    encoded = pc.dictionary_encode(column.combine_chunks())
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    tokens = [attribute_slots({f.name: v}, [f]) for v in encoded.dictionary.to_pylist()]
    known = np.stack([np.zeros(f.slots, np.uint32), *tokens])
    return known[np.asarray(pc.fill_null(encoded.indices, -1)) + 1], []


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _dim(path: Path, column: pa.Field) -> int:
    """Of a fixed-size list its size, else of the first vector that is there."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    for _, table in batches(path, [column.name], 0, _PROBE_ROWS):
        lengths = pc.max(pc.list_value_length(table[column.name])).as_py()
        if lengths:
            sizes = pc.list_value_length(table[column.name])
            return int(sizes.filter(pc.greater(sizes, 0))[0].as_py())
    raise InvalidInput(f"{path.name}.{column.name}", str(column.type), "holds no vector")


def _attribute(path: Path, column: pa.Field) -> AttributeField:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return AttributeField(column.name, "categorical")
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_string(kind.value_type):
        return AttributeField(column.name, "categorical", LIST_SLOTS)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return AttributeField(column.name, "numeric")
    raise InvalidInput(f"{path.name}.{column.name}", str(kind), "is neither a vector nor an attribute")


async def sealed_guard(redis: Server, file: VectorFile, space: Space) -> Guard:
    """The guard of a space of own vectors: the first load's, so that every load flags the same rows.

    Where there is none, the file's first rows give the probes. Raises Unavailable, BrokenBundle.
    """
    key = cast(str, keys.probes())
    async with redis_errors(f"read the probes of space {space.id}"):
        data = await cast(Any, redis.hget(key, space.id))
        if data is None:
            made = guard_bytes(Guard(await asyncio.to_thread(probes_of, file)))
            await cast(Any, redis.hsetnx(key, space.id, cast(str, made)))
            data = await cast(Any, redis.hget(key, space.id))
    return parse_guard(data, space, f"probes of space {space.id}")
