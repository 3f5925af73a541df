"""Bundle and generation manifests <-> canonical JSON.

A bundle is a sealed directory: manifest.json names every other file with its sha256, and the
manifest's own sha256 is the bundle's digest. A generation is what serves: one encoder bundle, the
space it fills, one ranker bundle with its ID table. Both are refused when their version is unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from contracts.errors import InvalidInput, UnknownVersion
from contracts.space import Space, space_from_json

BUNDLE_VERSION = 1
GENERATION_VERSION = 1
BundleKind = Literal["encoder", "ranker"]


def canonical(document: object) -> bytes:
    """One byte string per JSON value: sorted keys, no blanks, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class SealedFile:
    """sha256 in hex and the size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BundleManifest:
    """files: by path relative to the bundle; content: what the kind's reader needs (JSON values)."""

    kind: BundleKind
    created_ms: int
    files: Mapping[str, SealedFile]
    content: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "version": BUNDLE_VERSION,
                "kind": self.kind,
                "created_ms": self.created_ms,
                "files": {n: {"sha256": f.sha256, "size": f.size} for n, f in self.files.items()},
                "content": dict(self.content),
            }
        )

    @property
    def digest(self) -> str:
        """64 hex characters."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def parse_bundle_manifest(data: bytes) -> BundleManifest:
    """`BundleManifest.to_bytes()` back."""
    document = _object(data, "bundle manifest")
    if document.get("version") != BUNDLE_VERSION:
        raise UnknownVersion("bundle manifest", document.get("version"), BUNDLE_VERSION)
    if document.get("kind") not in ("encoder", "ranker"):
        raise InvalidInput("bundle.kind", document.get("kind"), "must be encoder or ranker")
    try:
        return BundleManifest(
            kind=cast(BundleKind, document["kind"]),
            created_ms=int(document["created_ms"]),
            files={
                str(n): SealedFile(str(f["sha256"]), int(f["size"])) for n, f in document["files"].items()
            },
            content=dict(document["content"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidInput("bundle manifest", document, f"is malformed: {error!r}") from error


@dataclass(frozen=True)
class IdTable:
    """One immutable table of trained ID rows. name: the published table version; rows: its own.

    base: None for a full table. An overlay holds the rows that changed since `base`, a full table of the same
    codec and dim, and is read over it: a row of the overlay hides the base's.
    """

    name: str
    codec: int
    dim: int
    rows: int
    base: str | None = None


@dataclass(frozen=True)
class Generation:
    """What serves as one. uris: local directories or object-store prefixes (fsspec)."""

    created_ms: int
    encoder_uri: str
    encoder_digest: str
    space: Space
    ranker_uri: str
    ranker_digest: str
    id_table: IdTable
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "version": GENERATION_VERSION,
                "created_ms": self.created_ms,
                "encoder": {"uri": self.encoder_uri, "digest": self.encoder_digest},
                "space": self.space.to_json(),
                "ranker": {"uri": self.ranker_uri, "digest": self.ranker_digest},
                "id_table": {
                    "name": self.id_table.name,
                    "codec": self.id_table.codec,
                    "dim": self.id_table.dim,
                    "rows": self.id_table.rows,
                    **({} if self.id_table.base is None else {"base": self.id_table.base}),
                },
                "notes": dict(self.notes),
            }
        )

    @property
    def id(self) -> str:
        """`g` and 12 hex characters of the manifest's sha256."""
        return "g" + hashlib.sha256(self.to_bytes()).hexdigest()[:12]


def parse_generation(data: bytes) -> Generation:
    """`Generation.to_bytes()` back."""
    document = _object(data, "generation manifest")
    if document.get("version") != GENERATION_VERSION:
        raise UnknownVersion("generation manifest", document.get("version"), GENERATION_VERSION)
    try:
        table = document["id_table"]
        return Generation(
            created_ms=int(document["created_ms"]),
            encoder_uri=str(document["encoder"]["uri"]),
            encoder_digest=str(document["encoder"]["digest"]),
            space=space_from_json(document["space"]),
            ranker_uri=str(document["ranker"]["uri"]),
            ranker_digest=str(document["ranker"]["digest"]),
            id_table=IdTable(
                name=str(table["name"]),
                codec=int(table["codec"]),
                dim=int(table["dim"]),
                rows=int(table["rows"]),
                base=None if table.get("base") is None else str(table["base"]),
            ),
            notes=dict(document["notes"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("generation manifest", document, f"is malformed: {error!r}") from error


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
        canonical(document)  # refuses NaN and infinities, which would have no digest
    except (ValueError, RecursionError) as error:
        raise InvalidInput(what, data[:64], "is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidInput(what, document, "must be an object")
    return document
