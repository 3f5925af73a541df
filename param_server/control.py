"""Which generations, spaces and ID tables there are and who needs them, as they were at one moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import InvalidInput
from contracts.manifest import Generation, parse_generation
from contracts.space import Space, parse_header
from param_server import keys
from param_server.connection import redis_errors
from param_server.parts import Part, parse_part
from param_server.scene_pointer import ScenePointer, parse_pointer
from param_server.scripts import Script
from param_server.server import Server


@dataclass(frozen=True)
class StoredTable:
    """rows: as its description says; base: of an overlay."""

    rows: int
    base: str | None


@dataclass(frozen=True)
class Control:
    """now: microseconds of the server's clock; used: of each part, as stored; pins: why; loading: spaces with
    a load that has not finished; raw_pointers: as stored."""

    now: int
    scenes: dict[str, ScenePointer]
    raw_pointers: dict[str, bytes]
    generations: dict[str, Generation]
    spaces: dict[str, Space]
    id_tables: dict[str, StoredTable]
    used: dict[Part, bytes]
    pins: dict[Part, str]
    collecting: dict[Part, bytes]
    loading: frozenset[str]
    published: frozenset[Part]

    def parts(self) -> list[Part]:
        """All, those that are being collected left out."""
        return [
            *(Part("generation", name) for name in self.generations),
            *(Part("space", name) for name in self.spaces),
            *(Part("id_table", name) for name in self.id_tables),
        ]

    def idle_s(self, part: Part) -> float | None:
        """Seconds since its last use; None where none is known."""
        used = self.used.get(part)
        return None if used is None else (self.now - int(used)) / 1e6


async def read_control(redis: Server, adopt: Sequence[Part] = ()) -> Control:
    """adopt: parts that get the present time as their last use where none is known.

    Raises Unavailable; UnknownVersion or InvalidInput where one document cannot be read: who cannot read who
    needs what must not remove anything.
    """
    names = [
        *(keys.scenes(), keys.generations(), keys.spaces(), keys.id_tables(), keys.used()),
        *(keys.pins(), keys.collecting(), keys.loads(), keys.published()),
    ]
    async with redis_errors("read what is published"):
        now, *hashes, loads, published = await Script(redis, "read_control")(
            names, [part.field for part in adopt]
        )
    scenes, generations, spaces, id_tables, used, pins, collecting = map(_pairs, hashes)
    return Control(
        now=int(now),
        scenes={scene.decode(): parse_pointer(data) for scene, data in scenes.items()},
        raw_pointers={scene.decode(): data for scene, data in scenes.items()},
        generations={name.decode(): parse_generation(data) for name, data in generations.items()},
        spaces={name.decode(): parse_header(data) for name, data in spaces.items()},
        id_tables={name.decode(): parse_table(name, data) for name, data in id_tables.items()},
        used={parse_part(field): stamp for field, stamp in used.items()},
        pins={parse_part(field): why.decode(errors="replace") for field, why in pins.items()},
        collecting={parse_part(field): data for field, data in collecting.items()},
        loading=frozenset(load.split(b":")[0].decode() for load in loads),
        published=frozenset(map(parse_part, published)),
    )


def parse_table(name: bytes, description: bytes) -> StoredTable:
    """What a collection must know of a table; InvalidInput."""
    try:
        document = json.loads(description)
        base = document.get("base")
        return StoredTable(int(document["rows"]), None if base is None else str(base))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"description of ID table {name.decode(errors='replace')}", description, "cannot be read"
        ) from error


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[0::2], flat[1::2], strict=True))
