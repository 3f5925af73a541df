"""How a ranker reads the columns of items, users and requests: its feature schema.

A value is stored or sent as slots (contracts.items.attribute_slots): token hashes, or the bits of one
float32. A ranker turns a field's slots into columns of (row, value): a row of its embedding table, 0 =
absent, and a factor. The field's embedding is the mean over its present columns of value * table[row].

| encoding   | of          | columns | row                                      | value                    |
| ---------- | ----------- | ------- | ---------------------------------------- | ------------------------ |
| vocabulary | categorical | slots   | unknown, then the tokens in order        | 1                        |
| hash       | categorical | slots   | token hash modulo `buckets`              | 1                        |
| bins       | numeric     | 1       | the bin between `edges`                  | 1                        |
| standard   | numeric     | 2       | the field's slope; its offset            | (x - mean) / std; 1      |
| log        | numeric     | 2       | the field's slope; its offset            | the same of log1p(x); 1  |

`log` is sign(x) log1p(|x|). Scaled values are clipped to [-10, 10], so that no outlier leaves the range that
training saw by more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput, UnknownVersion
from contracts.items import AttributeField
from contracts.space import Modality

SCHEMA_VERSION = 2
RANKER_SIGNATURE = 2
MAX_BUCKETS = 1 << 24
MAX_ROWS = (1 << 31) - 1  # of one embedding table: row numbers are int32
_SCALED_LIMIT = 10.0

Encoding = Literal["vocabulary", "hash", "bins", "standard", "log"]
_CATEGORICAL, _SCALED = ("vocabulary", "hash"), ("standard", "log")


def _none(dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.zeros(0, dtype=dtype)


@dataclass(frozen=True, eq=False)
class FieldEncoding:
    """How one field is read.

    tokens: (V,) uint32 sorted hashes of a vocabulary; edges: (V,) float32 ascending, of bins, bin b holds
    edges[b-1] <= x < edges[b]; buckets: of hash; mean, std: of standard and log.
    """

    field: AttributeField
    encoding: Encoding
    tokens: npt.NDArray[np.uint32] = default(default_factory=lambda: _none(np.uint32))
    edges: npt.NDArray[np.float32] = default(default_factory=lambda: _none(np.float32))
    buckets: int = 0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        where = f"schema.{self.field.name}"
        if self.encoding not in get_args(Encoding):
            raise InvalidInput(f"{where}.encoding", self.encoding, f"must be one of {get_args(Encoding)}")
        if (self.field.kind == "categorical") != (self.encoding in _CATEGORICAL):
            raise InvalidInput(f"{where}.encoding", self.encoding, f"does not fit a {self.field.kind} field")
        for name, array in (("tokens", self.tokens), ("edges", self.edges)):
            if array.ndim != 1:
                raise InvalidInput(f"{where}.{name}", array, "must be a list")
        if not (self.tokens[1:] > self.tokens[:-1]).all():
            raise InvalidInput(f"{where}.tokens", self.tokens, "must ascend")
        if np.isnan(self.edges).any() or not (self.edges[1:] >= self.edges[:-1]).all():
            raise InvalidInput(f"{where}.edges", self.edges, "must ascend")
        if self.encoding == "hash" and not 1 <= self.buckets <= MAX_BUCKETS:
            raise InvalidInput(f"{where}.buckets", self.buckets, f"must be 1 to {MAX_BUCKETS}")
        if not np.isfinite(self.mean):
            raise InvalidInput(f"{where}.mean", self.mean, "must be finite")
        if not 0 < self.std < np.inf:
            raise InvalidInput(f"{where}.std", self.std, "must be positive")

    @property
    def columns(self) -> int:
        """Columns of (row, value) that the field gives."""
        return 2 if self.encoding in _SCALED else self.field.slots

    @property
    def rows(self) -> int:
        """Rows of the field's part of the embedding table."""
        sizes = {"vocabulary": 1 + len(self.tokens), "hash": self.buckets, "bins": 1 + len(self.edges)}
        return sizes.get(self.encoding, 2)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.field.name,
            "kind": self.field.kind,
            "slots": self.field.slots,
            "encoding": self.encoding,
            "tokens": self.tokens.tolist(),
            "edges": [float(e) for e in self.edges],
            "buckets": self.buckets,
            "mean": self.mean,
            "std": self.std,
        }


class Columns(NamedTuple):
    """rows: (K, C) int32, 0 = absent; values: (K, C) float32, 0 where absent."""

    rows: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


def encode_columns(slots: npt.NDArray[np.uint32], fields: Sequence[FieldEncoding]) -> Columns:
    """Slots (K, S) uint32 of all fields side by side -> their columns."""
    wanted = sum(f.field.slots for f in fields)
    if slots.shape[1] != wanted:
        raise InvalidInput("slots", slots.shape, f"must have {wanted} columns")
    width = sum(f.columns for f in fields)
    rows = np.zeros((len(slots), width), dtype=np.int32)
    values = np.zeros((len(slots), width), dtype=np.float32)
    slot, column, first = 0, 0, 1
    for f in fields:
        block = slots[:, slot : slot + f.field.slots]
        places = slice(column, column + f.columns)
        if f.encoding in _CATEGORICAL:
            present = block != 0
            local = _token_rows(block, f)
            factor: npt.NDArray[Any] = present
        else:
            numbers = np.ascontiguousarray(block).view(np.float32)
            present = ~np.isnan(numbers)
            if f.encoding == "bins":
                local, factor = np.searchsorted(f.edges, numbers, side="right"), present
            else:
                local = np.array([[0, 1]])
                factor = np.concatenate([_scaled(numbers, f), np.ones_like(numbers)], axis=1)
        rows[:, places] = np.where(present, first + local, 0)
        values[:, places] = np.where(present, factor, 0)
        slot, column, first = slot + f.field.slots, column + f.columns, first + f.rows
    return Columns(rows, values)


def _token_rows(block: npt.NDArray[np.uint32], f: FieldEncoding) -> npt.NDArray[np.int64]:
    if f.encoding == "hash":
        return (block % np.uint32(f.buckets)).astype(np.int64)
    place = np.searchsorted(f.tokens, block)
    found = place < len(f.tokens)
    found[found] = f.tokens[place[found]] == block[found]
    return np.where(found, place + 1, 0)


def _scaled(numbers: npt.NDArray[np.float32], f: FieldEncoding) -> npt.NDArray[np.float64]:
    x = numbers.astype(np.float64)
    if f.encoding == "log":
        x = np.sign(x) * np.log1p(np.abs(x))
    with np.errstate(over="ignore"):  # a tiny std: infinite, then clipped
        return np.clip((x - f.mean) / f.std, -_SCALED_LIMIT, _SCALED_LIMIT)


@dataclass(frozen=True, eq=False)
class FeatureSchema:
    """What a ranker bundle says about its inputs.

    items: the space's attributes, in its order; user, context: columns of a request; time_gaps: whether the
    time since each behaviour is read; query: the space's modalities where a search's vectors are read.
    """

    history_length: int
    id_dim: int
    items: tuple[FieldEncoding, ...] = ()
    user: tuple[FieldEncoding, ...] = ()
    context: tuple[FieldEncoding, ...] = ()
    time_gaps: bool = False
    query: tuple[Modality, ...] = ()

    def __post_init__(self) -> None:
        for name, size in (("history_length", self.history_length), ("id_dim", self.id_dim)):
            if size < 1:
                raise InvalidInput(f"schema.{name}", size, "must be at least 1")
        for where, fields in (("items", self.items), ("user", self.user), ("context", self.context)):
            names = [f.field.name for f in fields]
            if len(set(names)) != len(names):
                raise InvalidInput(f"schema.{where}", names, "must have different names")
        for where, rows in (("items", self.item_rows), ("user + context", self.request_rows)):
            if rows > MAX_ROWS:
                raise InvalidInput(f"schema.{where}", rows, f"must have at most {MAX_ROWS} rows")

    @property
    def item_rows(self) -> int:
        """Rows of the items' embedding table, row 0 = absent included."""
        return 1 + sum(f.rows for f in self.items)

    @property
    def request_columns(self) -> tuple[FieldEncoding, ...]:
        """The user's columns, then the context's: one table."""
        return self.user + self.context

    @property
    def request_rows(self) -> int:
        """Rows of the users' and contexts' embedding table, row 0 = absent included."""
        return 1 + sum(f.rows for f in self.request_columns)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": SCHEMA_VERSION,
            "signature": RANKER_SIGNATURE,
            "history_length": self.history_length,
            "id_dim": self.id_dim,
            "items": [f.to_json() for f in self.items],
            "user": [f.to_json() for f in self.user],
            "context": [f.to_json() for f in self.context],
            "time_gaps": self.time_gaps,
            "query": [{"name": m.name, "dim": m.dim} for m in self.query],
        }


def schema_from_json(document: dict[str, Any]) -> FeatureSchema:
    """`FeatureSchema.to_json()` back; UnknownVersion where this build does not read it."""
    if not isinstance(document, dict):
        raise InvalidInput("feature schema", document, "must be an object")
    if document.get("version") != SCHEMA_VERSION:
        raise UnknownVersion("feature schema", document.get("version"), SCHEMA_VERSION)
    if document.get("signature") != RANKER_SIGNATURE:
        raise UnknownVersion("ranker signature", document.get("signature"), RANKER_SIGNATURE)
    try:
        return FeatureSchema(
            history_length=int(document["history_length"]),
            id_dim=int(document["id_dim"]),
            items=tuple(_field(f) for f in document["items"]),
            user=tuple(_field(f) for f in document["user"]),
            context=tuple(_field(f) for f in document["context"]),
            time_gaps=_boolean(document["time_gaps"]),
            query=tuple(Modality(str(m["name"]), int(m["dim"])) for m in document["query"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("feature schema", document, f"is malformed: {error!r}") from error


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is not true or false")
    return value


def _field(document: dict[str, Any]) -> FieldEncoding:
    return FieldEncoding(
        AttributeField(str(document["name"]), document["kind"], int(document["slots"])),
        document["encoding"],
        np.array(document["tokens"], dtype=np.uint32),
        np.array(document["edges"], dtype=np.float32),
        int(document["buckets"]),
        float(document["mean"]),
        float(document["std"]),
    )
