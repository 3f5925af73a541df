"""A space: the identity of one family of content vectors and the layout of its records.

Everything that would make two vectors incomparable, or two records unreadable, is part of the
identity: the encoder variant's digest, modalities, codec, rotation, attribute slots, table layout.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np

from contracts.codec import CODEC_NAMES, CONTENT_CODECS, CONTENT_INT8, MAX_MODALITIES, record_dtype
from contracts.errors import InvalidInput, SpaceMismatch, UnknownVersion
from contracts.items import AttributeField

SPACE_VERSION = 2  # 1 stored one key per item
ID_CHARACTERS = 16
SHARDS = 256  # of a space's or an ID table's buckets: what a cluster spreads over its nodes
ROWS_PER_BUCKET = 12  # when a table holds the rows that it was made for (docs/adr/0007)
MAX_BUCKETS = SHARDS << 16
_CODECS = tuple(CODEC_NAMES[codec] for codec in CONTENT_CODECS)


def buckets_for(rows: int) -> int:
    """How many hash buckets hold this many rows well: a multiple of SHARDS. More rows are slower."""
    return min(MAX_BUCKETS, max(1, -(-rows // (ROWS_PER_BUCKET * SHARDS))) * SHARDS)


DEFAULT_BUCKETS = buckets_for(100_000)


@dataclass(frozen=True)
class Modality:
    """One kind of content vector: text, image or fused."""

    name: str
    dim: int


@dataclass(frozen=True)
class Space:
    """Fixed at creation. `buckets`: the hashes that hold its records (`buckets_for`)."""

    encoder_digest: str
    modalities: tuple[Modality, ...]
    attributes: tuple[AttributeField, ...] = ()
    codec: int = CONTENT_INT8
    rotation: str = "none"
    buckets: int = DEFAULT_BUCKETS

    def __post_init__(self) -> None:
        if not 1 <= len(self.modalities) <= MAX_MODALITIES:
            raise InvalidInput("modalities", len(self.modalities), f"must be 1 to {MAX_MODALITIES}")
        for modality in self.modalities:
            if not 1 <= modality.dim <= 1040:  # raw int8 dot products stay exact in fp32 up to here
                raise InvalidInput(f"modalities.{modality.name}.dim", modality.dim, "must be 1 to 1040")
        if self.codec not in CONTENT_CODECS:
            raise UnknownVersion("content codec", CODEC_NAMES.get(self.codec, self.codec), _CODECS)
        if self.rotation != "none":
            raise UnknownVersion("rotation", self.rotation, ("none",))
        if not 1 <= self.buckets <= MAX_BUCKETS:
            raise InvalidInput("buckets", self.buckets, f"must be 1 to {MAX_BUCKETS}")

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(m.dim for m in self.modalities)

    @property
    def attribute_slots(self) -> int:
        return sum(f.slots for f in self.attributes)

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The structured dtype of this space's records."""
        return record_dtype(self.dims, self.attribute_slots, self.codec)

    @cached_property
    def id(self) -> str:
        """16 hex characters of the sha256 of the header."""
        return hashlib.sha256(self.header()).hexdigest()[:ID_CHARACTERS]

    def header(self) -> bytes:
        """The space header as stored beside the table: canonical JSON."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": SPACE_VERSION,
            "encoder_digest": self.encoder_digest,
            "modalities": [{"name": m.name, "dim": m.dim} for m in self.modalities],
            "attributes": [{"name": f.name, "kind": f.kind, "slots": f.slots} for f in self.attributes],
            "codec": CODEC_NAMES[self.codec],
            "rotation": self.rotation,
            "buckets": self.buckets,
        }


def space_from_json(document: object) -> Space:
    """The space of a header; UnknownVersion or InvalidInput otherwise."""
    if not isinstance(document, dict):
        raise InvalidInput("space", document, "must be an object")
    if document.get("version") != SPACE_VERSION:
        raise UnknownVersion("space header", document.get("version"), SPACE_VERSION)
    codecs = {name: codec for codec, name in CODEC_NAMES.items()}
    if document.get("codec") not in codecs:
        raise UnknownVersion("content codec", document.get("codec"), _CODECS)
    try:
        return Space(
            encoder_digest=str(document["encoder_digest"]),
            modalities=tuple(Modality(str(m["name"]), int(m["dim"])) for m in document["modalities"]),
            attributes=tuple(
                AttributeField(
                    str(f["name"]), cast(Literal["categorical", "numeric"], f["kind"]), int(f["slots"])
                )
                for f in document["attributes"]
            ),
            codec=codecs[document["codec"]],
            rotation=str(document["rotation"]),
            buckets=int(document["buckets"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("space", document, f"is not a space header: {error!r}") from error


def parse_header(header: bytes) -> Space:
    """`Space.header()` back to the space."""
    try:
        document = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("space", header, "is not JSON") from error
    return space_from_json(document)


def same_space(expected: str, found: str, where: str) -> None:
    """Refuse to let vectors of two spaces meet."""
    if expected != found:
        raise SpaceMismatch(expected, found, where)
