"""What a scene serves: one small versioned JSON document, moved by compare-and-set on its exact bytes.

Version 2 is that of a pointer with a canary. A scorer that reads version 1 alone refuses it and goes on with
what it serves.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from contracts.errors import InvalidInput, UnknownVersion
from contracts.manifest import canonical

POINTER_VERSION, CANARY_VERSION = 1, 2
MAX_PREVIOUS = 10
MAX_SALT = 200  # characters


@dataclass(frozen=True)
class Canary:
    """A second generation that a share of users gets. share: more than 0, less than 1.

    Who gets it depends on salt and user alone: it is the same on every scorer, and who has it at one share
    has it at every larger one.
    """

    generation_id: str
    share: float
    salt: str

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidInput("share", self.share, "must be more than 0 and less than 1")
        if not 1 <= len(self.salt) <= MAX_SALT:
            raise InvalidInput("salt", self.salt, f"must have 1 to {MAX_SALT} characters")

    def takes(self, key: bytes) -> bool:
        """Whether the user (or the request) of this key gets the canary."""
        digest = hashlib.blake2b(self.salt.encode() + b"\0" + key, digest_size=8, person=b"canary").digest()
        return int.from_bytes(digest, "little") < self.share * 2.0**64


@dataclass(frozen=True)
class ScenePointer:
    """revision: 1 at the first activation, +1 with each move; previous: earlier generations, to roll
    back to, the latest first, at most MAX_PREVIOUS."""

    generation_id: str
    revision: int
    previous: tuple[str, ...] = ()
    canary: Canary | None = None

    def to_bytes(self) -> bytes:
        document: dict[str, Any] = {
            "version": POINTER_VERSION,
            "generation_id": self.generation_id,
            "revision": self.revision,
            "previous": list(self.previous),
        }
        if self.canary is not None:
            document["version"] = CANARY_VERSION
            document["canary"] = {
                "generation_id": self.canary.generation_id,
                "share": self.canary.share,
                "salt": self.canary.salt,
            }
        return canonical(document)


def parse_pointer(data: bytes) -> ScenePointer:
    """`ScenePointer.to_bytes()` back; UnknownVersion or InvalidInput otherwise."""
    try:
        document = json.loads(data)
        version = document["version"]
        if version not in (POINTER_VERSION, CANARY_VERSION):
            raise UnknownVersion("scene pointer", version, (POINTER_VERSION, CANARY_VERSION))
        canary = None
        if version == CANARY_VERSION:
            told = document["canary"]
            canary = Canary(str(told["generation_id"]), float(told["share"]), str(told["salt"]))
        return ScenePointer(
            str(document["generation_id"]),
            int(document["revision"]),
            tuple(str(g) for g in document["previous"]),
            canary,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("scene pointer", data, f"is malformed: {error!r}") from error
