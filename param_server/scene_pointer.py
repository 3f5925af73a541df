"""What a scene serves: one small versioned JSON document, moved by compare-and-set on its exact bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from contracts.errors import InvalidInput, UnknownVersion
from contracts.manifest import canonical

POINTER_VERSION = 1
MAX_PREVIOUS = 10


@dataclass(frozen=True)
class ScenePointer:
    """revision: 1 at the first activation, +1 with each move; previous: earlier generations, to roll
    back to, the latest first, at most MAX_PREVIOUS."""

    generation_id: str
    revision: int
    previous: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "version": POINTER_VERSION,
                "generation_id": self.generation_id,
                "revision": self.revision,
                "previous": list(self.previous),
            }
        )


def parse_pointer(data: bytes) -> ScenePointer:
    """`ScenePointer.to_bytes()` back; UnknownVersion or InvalidInput otherwise."""
    try:
        document = json.loads(data)
        version = document["version"]
        if version != POINTER_VERSION:
            raise UnknownVersion("scene pointer", version, POINTER_VERSION)
        return ScenePointer(
            str(document["generation_id"]),
            int(document["revision"]),
            tuple(str(g) for g in document["previous"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("scene pointer", data, f"is malformed: {error!r}") from error
