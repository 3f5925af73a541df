"""Attribute slots and a ranker's vocabularies against slow code written from their definitions."""

from __future__ import annotations

import math
import struct
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput, UnknownVersion
from contracts.features import AttributeVocabulary, FeatureSchema, attribute_rows, schema_from_json
from contracts.items import AttributeField, attribute_slots, token_hash

GENRES = AttributeField("genres", "categorical", 3)
YEAR = AttributeField("year", "numeric")
STUDIO = AttributeField("studio", "categorical")


@pytest.mark.parametrize(
    ("field", "token", "expected"),
    [
        ("genres", "Crime", 898466389),
        ("genres", "", 1688630691),
        ("year", "1995", 1400162226),
        ("Ünï", "日本", 472627822),
    ],
)
def test_token_hash_is_this_literal(field: str, token: str, expected: int) -> None:
    assert token_hash(field, token) == expected


def test_token_hash_depends_on_the_field() -> None:
    assert token_hash("genres", "Crime") != token_hash("tags", "Crime")


def test_slots_are_these_literals() -> None:
    slots = attribute_slots(
        {"genres": " Crime | Drama || ", "year": 1995, "unknown": "left out"}, (GENRES, YEAR, STUDIO)
    )
    crime, drama = token_hash("genres", "Crime"), token_hash("genres", "Drama")
    assert slots.tolist() == [crime, drama, 0, 0x44F96000, 0]
    assert slots.dtype == np.uint32


def test_absent_numbers_are_nan_and_absent_tokens_zero() -> None:
    slots = attribute_slots({}, (GENRES, YEAR))
    assert slots[:3].tolist() == [0, 0, 0]
    assert math.isnan(slots[3:].view(np.float32)[0])


@pytest.mark.parametrize(
    ("value", "token"),
    [(7, "7"), (7.0, "7"), (-7, "-7"), (1234567, "1234567"), (1234568.0, "1234568"), (0.5, "0.5")],
)
def test_a_categorical_number_is_one_token_whatever_wire_it_came_by(value: float, token: str) -> None:
    assert attribute_slots({"studio": value}, (STUDIO,)).tolist() == [token_hash("studio", token)]


def test_words_in_a_numeric_field_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"attributes\.year: must be a number"):
        attribute_slots({"year": "1995"}, (YEAR,))


@pytest.mark.parametrize(
    ("kind", "slots"), [("categorical", 0), ("categorical", 65), ("numeric", 2), ("text", 1), ("", 1)]
)
def test_impossible_fields_are_refused(kind: Any, slots: int) -> None:
    with pytest.raises(InvalidInput, match=r"attributes\.x\."):
        AttributeField("x", kind, slots)


tokens = st.lists(st.text(st.sampled_from("ab é|"), max_size=4), max_size=6)
numbers = st.none() | st.floats(-1e6, 1e6, width=32) | st.integers(-1000, 1000)


@given(tokens, st.booleans(), numbers, st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_slots_equal_brute_force(genres: list[str], joined: bool, year: float | None, slots: int) -> None:
    field = AttributeField("genres", "categorical", slots)
    value: str | list[str] = "|".join(genres) if joined else genres
    attributes: dict[str, Any] = {"genres": value} if year is None else {"genres": value, "year": year}
    expected: list[int] = []
    for token in value.split("|") if isinstance(value, str) else value:
        if token.strip() and len(expected) < slots:
            expected.append(token_hash("genres", token.strip()))
    expected += [0] * (slots - len(expected))
    out = attribute_slots(attributes, (field, YEAR))
    assert out[:slots].tolist() == expected
    number = struct.unpack("<f", out[slots:].tobytes())[0]
    assert math.isnan(number) if year is None else number == year


def vocabulary(
    kind: Literal["categorical", "numeric"], slots: int, found: list[int], edges: list[float]
) -> AttributeVocabulary:
    return AttributeVocabulary(
        AttributeField("f", kind, slots),
        np.array(sorted(set(found)), np.uint32),
        np.array(sorted(edges), np.float32),
    )


hashes = st.integers(1, 12)
vocabularies = st.lists(
    st.builds(
        vocabulary, st.just("categorical"), st.integers(1, 3), st.lists(hashes, max_size=8), st.just([])
    )
    | st.builds(
        vocabulary,
        st.just("numeric"),
        st.just(1),
        st.just([]),
        st.lists(st.floats(-5, 5, width=16), max_size=5),
    ),
    max_size=4,
)


def brute_force_row(slot: int, v: AttributeVocabulary, first: int) -> int:
    if v.field.kind == "numeric":
        number = struct.unpack("<f", struct.pack("<I", slot))[0]
        return 0 if math.isnan(number) else first + 1 + sum(number >= edge for edge in v.edges.tolist())
    known = v.tokens.tolist()
    return 0 if slot == 0 else first + (known.index(slot) + 1 if slot in known else 0)


@given(vocabularies, st.integers(0, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_attribute_rows_equal_brute_force(found: list[AttributeVocabulary], count: int, seed: int) -> None:
    schema = FeatureSchema(10, 4, tuple(found))
    rng = np.random.default_rng(seed)
    blocks = [np.zeros((count, 0), np.uint32)]
    for v in found:
        if v.field.kind == "numeric":
            values = rng.choice(np.array([-9, -1, 0, 0.5, 5, 9, np.inf, -np.inf, np.nan], np.float32), count)
            values = np.where(rng.random(count) < 0.3, rng.choice([*v.edges, np.float32(0)], count), values)
            blocks.append(values.astype(np.float32).view(np.uint32)[:, None])
        else:
            blocks.append(rng.integers(0, 14, (count, v.field.slots), dtype=np.uint32))
    slots = np.concatenate(blocks, axis=1)
    rows = attribute_rows(slots, schema)
    expected = np.zeros(slots.shape, np.int32)
    for k in range(count):
        column, first = 0, 1
        for v in found:
            for _ in range(v.field.slots):
                expected[k, column] = brute_force_row(int(slots[k, column]), v, first)
                column += 1
            first += v.size
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == np.int32
    assert schema.attribute_rows == 1 + sum(v.size for v in found)
    assert rows.max(initial=0) < schema.attribute_rows


def test_fields_never_share_a_row() -> None:
    schema = FeatureSchema(1, 1, (vocabulary("categorical", 1, [5], []), vocabulary("numeric", 1, [], [0.0])))
    one, low, high = (np.array([x], np.float32).view(np.uint32)[0] for x in (np.nan, -1, 1))
    slots = np.array([[5, one], [6, low], [0, high]], np.uint32)
    # row 0 absent | 1 unknown, 2 token 5 | 3 unused, 4 below 0, 5 at least 0
    assert attribute_rows(slots, schema).tolist() == [[2, 0], [1, 4], [0, 5]]


SCHEMA = FeatureSchema(
    20,
    16,
    (
        AttributeVocabulary(GENRES, np.array([3, 9, 2**32 - 1], np.uint32), np.zeros(0, np.float32)),
        AttributeVocabulary(YEAR, np.zeros(0, np.uint32), np.array([1950.5, 0.1 + 1990], np.float32)),
    ),
)


def test_schema_round_trips_bit_exactly() -> None:
    again = schema_from_json(SCHEMA.to_json())
    assert again.to_json() == SCHEMA.to_json()
    for a, b in zip(again.vocabularies, SCHEMA.vocabularies, strict=True):
        assert a.field == b.field
        assert a.tokens.tobytes() == b.tokens.tobytes()
        assert a.edges.tobytes() == b.edges.tobytes()


@pytest.mark.parametrize("key", ["version", "signature"])
@pytest.mark.parametrize("value", [0, 2, None, "1"])
def test_unknown_schema_versions_are_refused(key: str, value: object) -> None:
    with pytest.raises(UnknownVersion):
        schema_from_json({**SCHEMA.to_json(), key: value})


@pytest.mark.parametrize(
    ("tokens_", "edges"), [([2, 1], []), ([1, 1], []), ([], [2.0, 1.0]), ([], [1.0, float("nan")])]
)
def test_vocabularies_that_searching_would_misread_are_refused(
    tokens_: list[int], edges: list[float]
) -> None:
    with pytest.raises(InvalidInput, match="must ascend"):
        AttributeVocabulary(GENRES, np.array(tokens_, np.uint32), np.array(edges, np.float32))


@pytest.mark.parametrize(
    "document",
    [
        [],
        None,
        {**SCHEMA.to_json(), "history_length": "long"},
        {**SCHEMA.to_json(), "history_length": float("inf")},
        {**SCHEMA.to_json(), "attributes": [{"name": "x"}]},
        {**SCHEMA.to_json(), "attributes": 3},
        {
            **SCHEMA.to_json(),
            "attributes": [{"name": "x", "kind": "categorical", "slots": 1, "tokens": [-1], "edges": []}],
        },
        {k: v for k, v in SCHEMA.to_json().items() if k != "id_dim"},
    ],
)
def test_malformed_schemas_are_refused(document: Any) -> None:
    with pytest.raises(InvalidInput, match="feature schema"):
        schema_from_json(document)
