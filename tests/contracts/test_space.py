"""A space's identity: stable, and different for every field that would make vectors incomparable."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.codec import CONTENT_FP16, CONTENT_INT8
from contracts.errors import InvalidInput, SpaceMismatch, UnknownVersion, shown
from contracts.items import AttributeField
from contracts.ranker_spec import RankerSpec
from contracts.schema import FeatureSchema
from contracts.space import (
    MAX_BUCKETS,
    Modality,
    Space,
    buckets_for,
    parse_header,
    same_space,
    space_from_json,
)

SPACE = Space(
    "ab" * 32,
    (Modality("text", 4), Modality("image", 3), Modality("fused", 2)),
    (AttributeField("genres", "categorical", 3), AttributeField("year", "numeric")),
)


def test_header_is_this_literal() -> None:
    assert SPACE.header() == (
        b'{"attributes":[{"kind":"categorical","name":"genres","slots":3},'
        b'{"kind":"numeric","name":"year","slots":1}],"buckets":8448,"codec":"content_int8",'
        b'"encoder_digest":"' + b"ab" * 32 + b'","modalities":[{"dim":4,"name":"text"},'
        b'{"dim":3,"name":"image"},{"dim":2,"name":"fused"}],"rotation":"none","version":2}'
    )


def test_id_is_this_literal() -> None:
    assert SPACE.id == "b246bec36e70e20b"


@pytest.mark.parametrize(
    ("rows", "buckets"),
    [(0, 256), (3072, 256), (3073, 512), (200_000, 16_896), (16_000_000, 1_333_504), (10**12, MAX_BUCKETS)],
)
def test_buckets_hold_about_twelve_rows(rows: int, buckets: int) -> None:
    assert buckets_for(rows) == buckets


def test_layout_follows_from_the_header() -> None:
    assert SPACE.dims == (4, 3, 2)
    assert SPACE.attribute_slots == 4
    assert SPACE.dtype.itemsize == 12 + 4 * 3 + 4 * 4 + 9


def test_published_record_size() -> None:
    modalities = tuple(Modality(name, 128) for name in ("text", "image", "fused"))
    assert Space("0" * 64, modalities).dtype.itemsize == 408


@pytest.mark.parametrize(
    "changed",
    [
        {"encoder_digest": "ac" * 32},
        {"modalities": (Modality("text", 4), Modality("image", 3), Modality("fused", 3))},
        {"modalities": (Modality("text", 4), Modality("image", 3), Modality("both", 2))},
        {"modalities": (Modality("image", 3), Modality("text", 4), Modality("fused", 2))},
        {"modalities": (Modality("text", 4), Modality("image", 3))},
        {"attributes": ()},
        {"attributes": (AttributeField("genres", "categorical", 4), AttributeField("year", "numeric"))},
        {"attributes": (AttributeField("genre", "categorical", 3), AttributeField("year", "numeric"))},
        {"attributes": (AttributeField("genres", "categorical", 3), AttributeField("year", "categorical"))},
        {"attributes": (AttributeField("year", "numeric"), AttributeField("genres", "categorical", 3))},
        {"buckets": 1024},
    ],
)
def test_every_identity_field_changes_the_id(changed: dict[str, Any]) -> None:
    other = dataclasses.replace(SPACE, **changed)
    assert other.id != SPACE.id
    with pytest.raises(SpaceMismatch, match=SPACE.id):
        same_space(SPACE.id, other.id, "test")


def test_a_space_of_halves_is_another_space_and_is_read_back() -> None:
    eight, halves = (Space("e" * 64, (Modality("text", 8),), codec=c) for c in (CONTENT_INT8, CONTENT_FP16))
    assert eight.id != halves.id
    assert b'"codec":"content_fp16"' in halves.header()
    assert parse_header(halves.header()) == halves
    assert (eight.dtype.itemsize, halves.dtype.itemsize) == (12 + 4 + 8, 12 + 4 + 16)
    with pytest.raises(InvalidInput, match=r"space\.codec: is not read by rankers"):
        RankerSpec({"name": "din"}, halves, FeatureSchema(8, 16, ()), 1)


@pytest.mark.parametrize(("name", "value"), [("codec", "content_int4"), ("rotation", "hadamard")])
def test_identity_fields_with_one_value_today_are_in_the_header_and_others_refused(
    name: str, value: str
) -> None:
    document = SPACE.to_json()
    assert name in document
    with pytest.raises(UnknownVersion, match=value):
        space_from_json({**document, name: value})


def test_no_field_of_a_space_is_outside_its_identity() -> None:
    assert set(SPACE.to_json()) == {f.name for f in dataclasses.fields(Space)} | {"version"}


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(
    names,
    st.lists(st.builds(Modality, names, st.integers(1, 1040)), min_size=1, max_size=7),
    st.lists(
        st.builds(AttributeField, names, st.just("categorical"), st.integers(1, 64))
        | st.builds(AttributeField, names, st.just("numeric")),
        max_size=5,
    ),
    st.integers(1, MAX_BUCKETS),
)
@settings(max_examples=60, deadline=None)
def test_header_round_trips(
    digest: str, modalities: list[Modality], attributes: list[AttributeField], buckets: int
) -> None:
    space = Space(digest, tuple(modalities), tuple(attributes), buckets=buckets)
    again = parse_header(space.header())
    assert again == space
    assert again.id == space.id


def test_equal_spaces_may_meet() -> None:
    same_space(SPACE.id, parse_header(SPACE.header()).id, "test")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_unknown_header_version_is_refused(version: object) -> None:
    with pytest.raises(UnknownVersion, match="space header"):
        space_from_json({**SPACE.to_json(), "version": version})


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"{", b"[" * 100_000, b"\xff\xfe", b"[]", b"null", b'"text"'),
        b'{"version":2,"codec":"content_int8"}',
    ],
    ids=shown,
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidInput, match="space"):
        parse_header(header)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", []),
        ("modalities", [{"name": "text", "dim": 0}]),
        ("modalities", [{"name": "text", "dim": 1041}]),
        ("modalities", [{"name": str(m), "dim": 1} for m in range(8)]),
        ("modalities", 7),
        ("modalities", [{"dim": 4}]),
        ("attributes", [{"name": "year", "kind": "odd", "slots": 1}]),
        ("attributes", [{"name": "year", "kind": "numeric", "slots": 2}]),
        ("attributes", [{"name": "year", "kind": "categorical", "slots": 65}]),
        ("buckets", 0),
        ("buckets", MAX_BUCKETS + 1),
        ("buckets", float("inf")),
        ("buckets", "many"),
        ("codec", None),
        ("codec", "id_int8"),
    ],
)
def test_impossible_values_are_refused(name: str, value: object) -> None:
    document = json.loads(json.dumps({**SPACE.to_json(), name: value}))
    with pytest.raises((InvalidInput, UnknownVersion)):
        space_from_json(document)
