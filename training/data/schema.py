"""Which columns of items.parquet are text and which are attributes, named by the caller or inferred.

Inferred text: `title`, then names (short strings), then prose, each in the file's order; of a pair
`<name>_short` and `<name>_long` the long one only. Inferred attributes: strings whose "|"-separated
tokens are few and recur (categorical), and numbers (numeric). Ids, pictures, splits and times are neither.

Columns of users and requests are inferred like attributes, but for two differences: strings may have any
number of distinct tokens, as long as they recur, and booleans are numbers (0, 1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InvalidInput
from contracts.items import MAX_FIELDS, AttributeField
from contracts.schema import Encoding
from training.data.table import Array, Table, as_text, is_number, is_text

TITLE = "title"
MAX_TOKENS = 200  # distinct tokens of a categorical attribute
MIN_ITEMS_PER_TOKEN = 3.0
MAX_TOKEN_CHARACTERS = 64.0  # mean over tokens: longer ones are sentences
MAX_SLOTS = 6
_CATEGORICAL = ("vocabulary", "hash")
PROSE_CHARACTERS = 80.0  # mean length from which a column is prose


def text_fields(items: Table, named: Sequence[str] | None) -> tuple[str, ...]:
    """The fields that make the encoder's text, in order. named: None to infer."""
    if named is not None:
        _check_named(items, named, "text_fields")
        for name in named:
            if not is_text(items.column(name).type):
                raise items.wrong_type(name, "strings, to be a text field")
        return tuple(named)
    if not is_text(items.column(TITLE).type):
        raise items.wrong_type(TITLE, "strings")
    found = [n for n, v in items.columns.items() if n != TITLE and _may_be_text(n, v)]
    found = [n for n in found if not (n.endswith("_short") and n.removesuffix("_short") + "_long" in found)]
    prose = [n for n in found if _mean_length(items.columns[n]) >= PROSE_CHARACTERS]
    return (TITLE, *(n for n in found if n not in prose), *prose)[:MAX_FIELDS]


def attribute_fields(items: Table, named: Sequence[str] | None) -> tuple[AttributeField, ...]:
    """The attributes in order. named: None to infer.

    A named integer column that ends with `_id` is categorical; a named boolean one is numeric (0, 1).
    """
    if named is not None:
        _check_named(items, named, "attribute_fields")
        return tuple(_named_attribute(items, name) for name in named)
    fields = []
    for name, values in items.columns.items():
        if _is_reserved(name) or name == TITLE:
            continue
        if is_text(values.type) and _recurs(values):
            fields.append(AttributeField(name, "categorical", _slots(values)))
        elif is_number(values.type) and not _is_time(name) and _varies(values):
            fields.append(AttributeField(name, "numeric"))
    return tuple(fields[:MAX_FIELDS])


def request_fields(
    table: Table,
    named: Sequence[str] | None,
    encodings: Mapping[str, Encoding],
    reserved: Collection[str],
    what: str,
) -> tuple[AttributeField, ...]:
    """The columns that are said of users or requests, in order. named: None to infer; encodings: by name.

    table: one row per user or request; reserved: columns that mean something else. An encoding says whether
    a column is categorical or numeric. Raises InvalidInput that names `what` or the column.
    """
    if named is not None:
        _check_named(table, named, what)
        for name in named:
            if name in reserved:
                raise InvalidInput(what, name, "has a meaning of its own")
        return tuple(_request_field(table, name, encodings.get(name)) for name in named)
    fields = []
    for name, values in table.columns.items():
        if name in reserved or (name not in encodings and (_is_reserved(name) or _is_time(name))):
            continue
        text = is_text(values.type)
        if name in encodings or (_recurs(values, None) if text else _is_count(values) and _varies(values)):
            fields.append(_request_field(table, name, encodings.get(name)))
    return tuple(fields[:MAX_FIELDS])


def _request_field(table: Table, name: str, encoding: Encoding | None) -> AttributeField:
    values = table.column(name)
    text = is_text(values.type)
    categorical = encoding in _CATEGORICAL if encoding is not None else text
    if not text and not _is_count(values):
        raise table.wrong_type(name, "strings, lists of strings or numbers, to be read by rankers")
    if categorical and pa.types.is_boolean(values.type):
        raise table.wrong_type(name, "strings or numbers, to be categorical")
    if not categorical and text:
        raise table.wrong_type(name, f"numbers, to be read as {encoding}")
    return (
        AttributeField(name, "categorical", _slots(values))
        if categorical
        else AttributeField(name, "numeric")
    )


def _is_count(values: Array) -> bool:
    return is_number(values.type) or bool(pa.types.is_boolean(values.type))


def _check_named(items: Table, named: Sequence[str], what: str) -> None:
    if isinstance(named, str):
        raise InvalidInput(what, named, "must be a list of column names")
    if len(set(named)) != len(named):
        raise InvalidInput(what, list(named), "names a column twice")
    if len(named) > MAX_FIELDS:
        raise InvalidInput(what, len(named), f"must name at most {MAX_FIELDS} columns")
    for name in named:
        items.column(name)


def _named_attribute(items: Table, name: str) -> AttributeField:
    values = items.column(name)
    if pa.types.is_integer(values.type) and name.endswith("_id"):
        return AttributeField(name, "categorical")
    if is_number(values.type) or pa.types.is_boolean(values.type):
        return AttributeField(name, "numeric")
    if not is_text(values.type):
        raise items.wrong_type(name, "strings, lists of strings or numbers, to be an attribute")
    return AttributeField(name, "categorical", _slots(values))


def _is_reserved(name: str) -> bool:
    return name in ("id", "split") or name.endswith("_id") or name.startswith(("image", "served_"))


def _is_time(name: str) -> bool:
    return name.endswith(("timestamp", "_at"))


def _may_be_text(name: str, values: Array) -> bool:
    """Strings of which most hold a letter: no numbers, dates or other codes."""
    if _is_reserved(name) or not is_text(values.type):
        return False
    lettered = pc.mean(pc.match_substring_regex(values, r"\p{L}").cast(pa.float64())).as_py()
    return lettered is not None and lettered >= 0.5


def _mean_length(values: Array) -> float:
    return float(pc.mean(pc.utf8_length(values)).as_py() or 0.0)


def _tokens(values: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """All tokens of a column in a row, and (I,) int64 how many each item has; blank ones do not count."""
    lists = pc.split_pattern(pc.fill_null(as_text(values), ""), "|")
    flat = pc.utf8_trim_whitespace(lists.flatten())
    kept = pc.not_equal(flat, "")
    owners = pc.list_parent_indices(lists).filter(kept).to_numpy(zero_copy_only=False)
    return flat.filter(kept), np.bincount(owners, minlength=len(values))


def _recurs(values: Array, most: int | None = MAX_TOKENS) -> bool:
    tokens, _ = _tokens(values)
    distinct = pc.count_distinct(tokens).as_py()
    return (
        distinct >= 2
        and (most is None or distinct <= most)
        and len(tokens) >= MIN_ITEMS_PER_TOKEN * distinct
        and _mean_length(tokens) <= MAX_TOKEN_CHARACTERS
    )


def _varies(values: Array) -> bool:
    low, high = pc.min_max(values).as_py().values()
    return low is not None and low != high


def _slots(values: Array) -> int:
    """The 95th percentile of the tokens of an item that has any, 1 to MAX_SLOTS."""
    _, counts = _tokens(values)
    counts = counts[counts > 0]
    return int(np.clip(np.ceil(np.percentile(counts, 95)), 1, MAX_SLOTS)) if len(counts) else 1
