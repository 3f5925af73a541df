"""Attribute slots against slow code written from their definitions."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput
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
    with pytest.raises(InvalidInput, match=r"^user\.year: must be a number \(got \['1995'\]\)"):
        attribute_slots({"year": ["1995"]}, (YEAR,), "user")


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
