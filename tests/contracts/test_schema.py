"""A ranker's feature schema: every encoding against slow code written from its definition, and its JSON."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput, UnknownVersion, shown
from contracts.items import AttributeField
from contracts.manifest import canonical
from contracts.schema import MAX_BUCKETS, FeatureSchema, FieldEncoding, encode_columns, schema_from_json
from contracts.space import Modality

U32 = npt.NDArray[np.uint32]
GENRES = AttributeField("genres", "categorical", 3)
CITY = AttributeField("city", "categorical")
YEAR = AttributeField("year", "numeric")


def tokens(*values: int) -> U32:
    return np.array(values, np.uint32)


def edges(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def bits(number: float) -> int:
    return int(np.array([number], np.float32).view(np.uint32)[0])


SCHEMA = FeatureSchema(
    20,
    16,
    items=(
        FieldEncoding(GENRES, "vocabulary", tokens(3, 9, 2**32 - 1)),
        FieldEncoding(YEAR, "bins", edges=edges(1950.5, 0.1 + 1990)),
    ),
    user=(
        FieldEncoding(AttributeField("{age}", "numeric"), "standard", mean=33.3, std=1e-30),
        FieldEncoding(CITY, "hash", buckets=MAX_BUCKETS),
    ),
    context=(FieldEncoding(YEAR, "log", mean=-1e300, std=0.1), FieldEncoding(CITY, "vocabulary")),
    time_gaps=True,
    query=(Modality("text", 4), Modality("image", 8)),
)

small = st.integers(1, 12)
categorical = st.builds(AttributeField, st.just("f"), st.just("categorical"), st.integers(1, 3))
numeric = st.just(AttributeField("f", "numeric"))
finite = st.floats(-1e6, 1e6)
encodings = st.lists(
    st.one_of(
        st.builds(
            FieldEncoding,
            categorical,
            st.just("vocabulary"),
            st.lists(small, max_size=8).map(lambda found: tokens(*sorted(set(found)))),
        ),
        st.builds(FieldEncoding, categorical, st.just("hash"), buckets=st.integers(1, 9)),
        st.builds(
            FieldEncoding,
            numeric,
            st.just("bins"),
            edges=st.lists(st.floats(-5, 5, width=16), max_size=5).map(lambda found: edges(*sorted(found))),
        ),
        st.builds(
            FieldEncoding,
            numeric,
            st.sampled_from(["standard", "log"]),
            mean=finite,
            std=st.floats(1e-300, 1e6, allow_subnormal=False),
        ),
    ),
    max_size=4,
)


def brute_force(slot: int, f: FieldEncoding, first: int) -> list[tuple[int, float]]:
    """One slot's columns of (row, value)."""
    if f.encoding == "vocabulary":
        known = f.tokens.tolist()
        local = known.index(slot) + 1 if slot in known else 0
        return [(first + local, 1.0)] if slot else [(0, 0.0)]
    if f.encoding == "hash":
        return [(first + slot % f.buckets, 1.0)] if slot else [(0, 0.0)]
    number = struct.unpack("<f", struct.pack("<I", slot))[0]
    if f.encoding == "bins":
        local = sum(number >= e for e in f.edges.tolist())
        return [(0, 0.0)] if math.isnan(number) else [(first + local, 1.0)]
    if math.isnan(number):
        return [(0, 0.0), (0, 0.0)]
    if f.encoding == "log":
        number = math.copysign(math.log1p(abs(number)), number)
    wide = (number - f.mean) / f.std if not math.isinf(number) else number
    return [(first, min(10.0, max(-10.0, wide))), (first + 1, 1.0)]


def drawn_slots(rng: np.random.Generator, f: FieldEncoding, count: int) -> U32:
    if f.field.kind == "categorical":
        slots = rng.integers(0, 14, (count, f.field.slots), dtype=np.uint32)
        return np.where(rng.random(slots.shape) < 0.1, np.uint32(2**32 - 1), slots)
    odd = [-9, -0.0, 0, 0.5, 5, 1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, f.mean, *f.edges]
    return rng.choice(np.array(odd, np.float32), count).view(np.uint32)[:, None]


@given(encodings, st.integers(0, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_columns_equal_brute_force(found: list[FieldEncoding], count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [drawn_slots(rng, f, count) for f in found]
    slots = np.concatenate([np.zeros((count, 0), np.uint32), *blocks], axis=1)
    columns = encode_columns(slots, found)
    width = sum(f.columns for f in found)
    assert columns.rows.shape == columns.values.shape == (count, width)
    assert (columns.rows.dtype.str, columns.values.dtype.str) == ("<i4", "<f4")
    for k in range(count):
        expected: list[tuple[int, float]] = []
        first = 1
        for f, block in zip(found, blocks, strict=True):
            for slot in block[k].tolist():
                expected += brute_force(slot, f, first)
            first += f.rows
        assert columns.rows[k].tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(columns.values[k], [v for _, v in expected], rtol=1e-6, atol=1e-30)
    assert columns.rows.max(initial=0) < 1 + sum(f.rows for f in found)
    assert np.isfinite(columns.values).all()
    assert not columns.values[columns.rows == 0].any()


def test_fields_never_share_a_row() -> None:
    fields = (
        FieldEncoding(CITY, "vocabulary", tokens(5)),
        FieldEncoding(YEAR, "bins", edges=edges(0.0)),
        FieldEncoding(CITY, "hash", buckets=3),
        FieldEncoding(YEAR, "standard", mean=1.0, std=2.0),
        FieldEncoding(YEAR, "log"),
    )
    # 1 unknown, 2 token 5 | 3 below 0, 4 at least 0 | 5 to 7 hashes | 8 slope, 9 offset | 10 slope, 11 offset
    slots = np.array(
        [
            [5, bits(-1), 4, bits(-2.0), bits(math.e - 1)],
            [6, bits(0), 2**32 - 1, bits(1e9), bits(-1e30)],
            [0, bits(np.nan), 0, bits(np.nan), bits(np.nan)],
        ],
        np.uint32,
    )
    columns = encode_columns(slots, fields)
    assert columns.rows.tolist() == [[2, 3, 6, 8, 9, 10, 11], [1, 4, 5, 8, 9, 10, 11], [0] * 7]
    wanted = np.array([[1, 1, 1, -1.5, 1, 1, 1], [1, 1, 1, 10, 1, -10, 1], [0] * 7])
    np.testing.assert_allclose(columns.values, wanted, rtol=1e-6)


def test_sizes_of_the_tables() -> None:
    assert [f.rows for f in SCHEMA.items] == [4, 3]
    assert [f.columns for f in SCHEMA.items] == [3, 1]
    assert SCHEMA.item_rows == 8
    assert [f.rows for f in SCHEMA.request_columns] == [2, MAX_BUCKETS, 2, 1]
    assert [f.columns for f in SCHEMA.request_columns] == [2, 1, 2, 1]
    assert SCHEMA.request_rows == 6 + MAX_BUCKETS


@pytest.mark.parametrize("width", [0, 3, 5])
def test_slots_of_another_width_are_refused(width: int) -> None:
    with pytest.raises(InvalidInput, match="slots: must have 4 columns"):
        encode_columns(np.zeros((2, width), np.uint32), SCHEMA.items)


def same_fields(a: tuple[FieldEncoding, ...], b: tuple[FieldEncoding, ...]) -> bool:
    return len(a) == len(b) and all(
        (x.field, x.encoding, x.buckets, x.mean, x.std) == (y.field, y.encoding, y.buckets, y.mean, y.std)
        and x.tokens.tobytes() == y.tokens.tobytes()
        and x.edges.tobytes() == y.edges.tobytes()
        for x, y in zip(a, b, strict=True)
    )


def test_schema_round_trips_bit_exactly() -> None:
    again = schema_from_json(json.loads(canonical(SCHEMA.to_json())))
    assert again.to_json() == SCHEMA.to_json()
    assert (again.history_length, again.id_dim, again.time_gaps) == (20, 16, True)
    assert again.query == SCHEMA.query
    assert same_fields(again.items, SCHEMA.items)
    assert same_fields(again.user, SCHEMA.user)
    assert same_fields(again.context, SCHEMA.context)


@given(encodings)
@settings(max_examples=100, deadline=None)
def test_any_field_round_trips_bit_exactly(found: list[FieldEncoding]) -> None:
    for f in found:
        again = schema_from_json(json.loads(canonical(FeatureSchema(1, 1, context=(f,)).to_json())))
        assert same_fields(again.context, (f,))


@pytest.mark.parametrize("key", ["version", "signature"])
@pytest.mark.parametrize("value", [0, 1, 3, None, "2", 2.5, [], {}])
def test_unknown_schema_versions_are_refused(key: str, value: object) -> None:
    with pytest.raises(UnknownVersion):
        schema_from_json({**SCHEMA.to_json(), key: value})


def test_a_schema_of_version_1_is_refused() -> None:
    """As the first release wrote it."""
    genres = {"name": "genres", "kind": "categorical", "slots": 1, "tokens": [7], "edges": []}
    old = {"version": 1, "signature": 1, "history_length": 20, "id_dim": 16, "attributes": [genres]}
    with pytest.raises(UnknownVersion, match="feature schema: version 1 is unknown"):
        schema_from_json(old)


MISFITS: dict[str, tuple[AttributeField, str, dict[str, Any], str]] = {
    # name: field, encoding, the rest, what is said
    "no such encoding": (CITY, "onehot", {}, "city.encoding: must be one of"),
    "number in a vocabulary": (YEAR, "vocabulary", {}, "year.encoding: does not fit a numeric field"),
    "number hashed": (YEAR, "hash", {"buckets": 3}, "year.encoding: does not fit"),
    "words in bins": (CITY, "bins", {}, "city.encoding: does not fit a categorical field"),
    "words scaled": (CITY, "standard", {}, "city.encoding: does not fit"),
    "words in a logarithm": (CITY, "log", {}, "city.encoding: does not fit"),
    "tokens fall": (CITY, "vocabulary", {"tokens": tokens(2, 1)}, "city.tokens: must ascend"),
    "tokens repeat": (CITY, "vocabulary", {"tokens": tokens(1, 1)}, "city.tokens: must ascend"),
    "tokens in a table": (CITY, "vocabulary", {"tokens": tokens()[None]}, "city.tokens: must be a list"),
    "edges fall": (YEAR, "bins", {"edges": edges(2.0, 1.0)}, "year.edges: must ascend"),
    "edges NaN": (YEAR, "bins", {"edges": edges(1.0, np.nan)}, "year.edges: must ascend"),
    "edges a number": (YEAR, "bins", {"edges": edges(1.0)[0]}, "year.edges: must be a list"),
    "no buckets": (CITY, "hash", {}, "city.buckets: must be 1 to"),
    "buckets negative": (CITY, "hash", {"buckets": -1}, "city.buckets: must be 1 to"),
    "too many buckets": (CITY, "hash", {"buckets": MAX_BUCKETS + 1}, "city.buckets: must be 1 to"),
    "mean NaN": (YEAR, "standard", {"mean": float("nan")}, "year.mean: must be finite"),
    "mean infinite": (YEAR, "log", {"mean": float("-inf")}, "year.mean: must be finite"),
    "std zero": (YEAR, "standard", {"std": 0.0}, "year.std: must be positive"),
    "std negative": (YEAR, "standard", {"std": -1.0}, "year.std: must be positive"),
    "std NaN": (YEAR, "standard", {"std": float("nan")}, "year.std: must be positive"),
    "std infinite": (YEAR, "log", {"std": float("inf")}, "year.std: must be positive"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_encodings_that_would_misread_are_refused(name: str) -> None:
    field, encoding, rest, told = MISFITS[name]
    with pytest.raises(InvalidInput, match=rf"^schema\.{told}"):
        FieldEncoding(field, encoding, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["items", "user", "context"])
def test_two_columns_of_one_name_are_refused(where: str) -> None:
    two = (FieldEncoding(CITY, "vocabulary"), FieldEncoding(AttributeField("city", "numeric"), "bins"))
    with pytest.raises(InvalidInput, match=rf"^schema\.{where}: must have different names"):
        FeatureSchema(1, 1, **{where: two})  # type: ignore[arg-type]
    FeatureSchema(1, 1, (two[0],), (two[0],), (two[1],))  # one each is fine


def test_a_table_has_no_more_rows_than_int32_can_number() -> None:
    many = tuple(
        FieldEncoding(AttributeField(f"f{n}", "categorical"), "hash", buckets=MAX_BUCKETS) for n in range(128)
    )
    FeatureSchema(1, 1, many[:127])
    for where in ("items", "user", "context"):
        with pytest.raises(InvalidInput, match=r"^schema\..*: must have at most 2147483647 rows"):
            FeatureSchema(1, 1, **{where: many})  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (-1, 1)])
def test_sizes_are_positive(sizes: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match=r"^schema\.(history_length|id_dim): must be at least 1"):
        FeatureSchema(*sizes)


FIELD = SCHEMA.to_json()["items"][0]
BROKEN: list[Any] = [
    [],
    None,
    "schema",
    {**SCHEMA.to_json(), "history_length": "long"},
    {**SCHEMA.to_json(), "history_length": float("inf")},
    {**SCHEMA.to_json(), "items": [{"name": "x"}]},
    {**SCHEMA.to_json(), "items": 3},
    {**SCHEMA.to_json(), "user": None},
    {**SCHEMA.to_json(), "context": [None]},
    {**SCHEMA.to_json(), "time_gaps": "false"},
    {**SCHEMA.to_json(), "time_gaps": 1},
    {**SCHEMA.to_json(), "query": ["text"]},
    {**SCHEMA.to_json(), "query": [{"name": "text", "dim": "wide"}]},
    *({**SCHEMA.to_json(), "items": [{k: v for k, v in FIELD.items() if k != key}]} for key in FIELD),
    *(
        {k: v for k, v in SCHEMA.to_json().items() if k != key}
        for key in SCHEMA.to_json()
        if key != "version"
    ),
]


@pytest.mark.parametrize("document", BROKEN, ids=shown)
def test_malformed_schemas_are_refused(document: Any) -> None:
    with pytest.raises((InvalidInput, UnknownVersion), match=r"feature schema|ranker signature"):
        schema_from_json(document)


RUBBISH: tuple[Any, ...] = (
    None,
    7,
    "text",
    [],
    {},
    [[]],
    [[1]],
    [-1],
    True,
    float("nan"),
    float("inf"),
    -1,
    10**400,
)


@pytest.mark.parametrize("value", RUBBISH, ids=shown)
@pytest.mark.parametrize("key", FIELD)
def test_rubbish_in_a_field_is_read_or_refused_by_a_typed_error(key: str, value: Any) -> None:
    for where in ("items", "user"):
        field = SCHEMA.to_json()[where][0] | {key: value}
        try:
            (f,) = getattr(schema_from_json({**SCHEMA.to_json(), where: [field]}), where)
        except InvalidInput:
            continue
        columns = encode_columns(np.ones((2, f.field.slots), np.uint32), (f,))
        assert columns.rows.max() <= f.rows
