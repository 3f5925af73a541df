"""Bundle and generation manifests and the two specs: bytes by literal, round trips, refusals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from contracts.codec import ID_FP16, ID_INT8
from contracts.encoder_spec import EncoderSpec, encoder_spec_from_json
from contracts.errors import InvalidInput, RepcenterError, UnknownVersion, shown
from contracts.features import AttributeVocabulary, FeatureSchema
from contracts.images import ImagePreprocessing
from contracts.items import AttributeField, TextTemplate
from contracts.manifest import (
    BundleManifest,
    Generation,
    IdTable,
    SealedFile,
    canonical,
    parse_bundle_manifest,
    parse_generation,
)
from contracts.ranker_spec import RankerSpec, ranker_spec_from_json
from contracts.space import Modality, Space

GENRES = AttributeField("genres", "categorical", 3)
SPACE = Space("ab" * 32, (Modality("text", 4),), (GENRES,))
MANIFEST = BundleManifest("ranker", 1_700_000_000_000, {"a/b.bin": SealedFile("00" * 32, 7)}, {"x": [1, "é"]})
GENERATION = Generation(
    1_700_000_000_000,
    "file:///b/encoder-1",
    "aa" * 32,
    SPACE,
    "s3://b/ranker-1",
    "bb" * 32,
    IdTable("t1", ID_INT8, 16, 1000),
    {"auc": 0.75},
)
ENCODER = EncoderSpec(
    128,
    TextTemplate(("title", "genres")),
    32,
    ImagePreprocessing(64, 48, (0.5, 0.4, 0.3), (0.2, 0.1, 0.3)),
    "pixels",
    "features",
    (GENRES, AttributeField("year", "numeric")),
)
RANKER = RankerSpec(
    {"kind": "dmae", "d": 16},
    SPACE,
    FeatureSchema(
        20, 16, (AttributeVocabulary(GENRES, np.array([1, 2], np.uint32), np.zeros(0, np.float32)),)
    ),
    1000,
    {"auc": 0.7},
    id_codec=ID_FP16,
)


def test_bundle_manifest_is_this_literal() -> None:
    literal = (
        b'{"content":{"x":[1,"\\u00e9"]},"created_ms":1700000000000,'
        b'"files":{"a/b.bin":{"sha256":"' + b"00" * 32 + b'","size":7}},"kind":"ranker","version":1}'
    )
    assert MANIFEST.to_bytes() == literal
    assert MANIFEST.digest == hashlib.sha256(literal).hexdigest()


def test_generation_is_this_literal() -> None:
    literal = (
        b'{"created_ms":1700000000000,"encoder":{"digest":"' + b"aa" * 32 + b'","uri":"file:///b/encoder-1"},'
        b'"id_table":{"codec":2,"dim":16,"name":"t1","rows":1000},"notes":{"auc":0.75},'
        b'"ranker":{"digest":"'
        + b"bb" * 32
        + b'","uri":"s3://b/ranker-1"},"space":'
        + SPACE.header()
        + b',"version":1}'
    )
    assert GENERATION.to_bytes() == literal
    assert GENERATION.id == "g" + hashlib.sha256(literal).hexdigest()[:12]


def test_manifests_round_trip() -> None:
    assert parse_bundle_manifest(MANIFEST.to_bytes()) == MANIFEST
    assert parse_bundle_manifest(json.dumps(json.loads(MANIFEST.to_bytes()), indent=2).encode()) == MANIFEST
    again = parse_generation(GENERATION.to_bytes())
    assert again == GENERATION
    assert again.id == GENERATION.id


@pytest.mark.parametrize(
    "changed",
    [
        {"created_ms": 1},
        {"encoder_uri": "x"},
        {"encoder_digest": "x"},
        {"space": dataclasses.replace(SPACE, buckets=8)},
        {"ranker_uri": "x"},
        {"ranker_digest": "x"},
        {"id_table": IdTable("t2", ID_INT8, 16, 1000)},
        {"notes": {}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_field_changes_a_generations_id(changed: dict[str, Any]) -> None:
    assert dataclasses.replace(GENERATION, **changed).id != GENERATION.id


def test_specs_round_trip_through_json() -> None:
    document = json.loads(canonical(ENCODER.to_json()))
    assert encoder_spec_from_json(document) == ENCODER
    document = json.loads(canonical(RANKER.to_json()))
    again = ranker_spec_from_json(document)
    assert again.to_json() == RANKER.to_json()
    assert (again.space, again.id_codec) == (SPACE, ID_FP16)


def test_an_encoder_spec_fills_one_space() -> None:
    space = ENCODER.space("cd" * 32)
    assert [(m.name, m.dim) for m in space.modalities] == [("text", 128), ("image", 128), ("fused", 128)]
    assert space.attributes == ENCODER.attributes
    assert space.encoder_digest == "cd" * 32


Reader = Callable[[dict[str, Any]], object]
READERS: dict[str, tuple[Reader, dict[str, Any]]] = {
    "bundle": (lambda d: parse_bundle_manifest(json.dumps(d).encode()), json.loads(MANIFEST.to_bytes())),
    "generation": (lambda d: parse_generation(json.dumps(d).encode()), json.loads(GENERATION.to_bytes())),
    "encoder spec": (encoder_spec_from_json, json.loads(canonical(ENCODER.to_json()))),
    "ranker spec": (ranker_spec_from_json, json.loads(canonical(RANKER.to_json()))),
}


@pytest.mark.parametrize("version", [0, 2, "1", None, [], 1.5])
@pytest.mark.parametrize("what", READERS)
def test_unknown_versions_are_refused(what: str, version: object) -> None:
    read, document = READERS[what]
    with pytest.raises(UnknownVersion, match=what):
        read({**document, "version": version})


@pytest.mark.parametrize("what", READERS)
def test_a_missing_version_is_refused(what: str) -> None:
    read, document = READERS[what]
    with pytest.raises(UnknownVersion):
        read({k: v for k, v in document.items() if k != "version"})


@pytest.mark.parametrize(
    ("what", "path", "error"),
    [
        ("encoder spec", ("template", "version"), "text template"),
        ("encoder spec", ("image", "version"), "image preprocessing"),
        ("ranker spec", ("space", "version"), "space header"),
        ("ranker spec", ("schema", "version"), "feature schema"),
        ("ranker spec", ("schema", "signature"), "ranker signature"),
        ("generation", ("space", "version"), "space header"),
    ],
)
def test_unknown_versions_within_are_refused(what: str, path: tuple[str, str], error: str) -> None:
    read, document = READERS[what]
    inner = {**document[path[0]], path[1]: 99}
    with pytest.raises(UnknownVersion, match=error):
        read({**document, path[0]: inner})


RUBBISH: tuple[object, ...] = (None, 7, "text", [], {}, [[]], True, float("inf"), -1)


@pytest.mark.parametrize("what", READERS)
def test_any_field_that_is_rubbish_is_read_or_refused_by_a_typed_error(what: str) -> None:
    read, document = READERS[what]
    refused = 0
    for name in document:
        without = {k: v for k, v in document.items() if k != name}
        for changed in (without, *({**document, name: value} for value in RUBBISH)):
            try:
                read(changed)
            except RepcenterError:
                refused += 1
        with pytest.raises(RepcenterError):
            read(without)
    assert refused > 3 * len(document)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 200_000, b"\xff", b"null", b"[]", b'"x"', b"7", b"NaN", b'{"version":1,"kind":"x"}'],
    ids=shown,
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_bundle_manifest(data)
    with pytest.raises(InvalidInput):
        parse_generation(data)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_without_a_canonical_form_are_refused(number: bytes) -> None:
    with pytest.raises(InvalidInput, match="is not JSON"):
        parse_bundle_manifest(MANIFEST.to_bytes().replace(b"[1,", b"[" + number + b","))
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_canonical_bytes_do_not_depend_on_order() -> None:
    assert canonical({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'
