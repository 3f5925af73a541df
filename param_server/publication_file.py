"""What is published and what each scene serves, as one JSON file: the way back after a lost table server.

Records come back from the offline table, ID rows from the rankers' bundles; this file says which of them go
together. What the server holds already stays as it is, so the file may be imported again and again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from contracts.errors import InvalidInput, NotFound, RepcenterError, Unavailable, UnknownVersion
from contracts.manifest import Generation, canonical, parse_generation
from param_server.activation_log import Trace
from param_server.control import read_control
from param_server.generations import Generations
from param_server.parts import LETTERS, Kind, Part
from param_server.pins import Pins
from param_server.publication import Progress, republish
from param_server.scene_pointer import ScenePointer, parse_pointer
from param_server.server import Server

FILE_VERSION = 1


@dataclass(frozen=True)
class Published:
    """As it was at one moment. generations: oldest first; scenes: their pointers, with what they can roll
    back to; pins: why a part stays."""

    generations: tuple[Generation, ...]
    scenes: dict[str, ScenePointer]
    pins: dict[Part, str]

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "version": FILE_VERSION,
                "generations": [json.loads(generation.to_bytes()) for generation in self.generations],
                "scenes": {name: json.loads(pointer.to_bytes()) for name, pointer in self.scenes.items()},
                "pins": [
                    {"kind": p.kind, "name": p.name, "why": why} for p, why in sorted(self.pins.items())
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """`to_bytes()` back; UnknownVersion or InvalidInput otherwise."""
        try:
            document: dict[str, Any] = json.loads(data)
            if document["version"] != FILE_VERSION:
                raise UnknownVersion("file of generations", document["version"], FILE_VERSION)
            return cls(
                tuple(parse_generation(canonical(g)) for g in document["generations"]),
                {str(name): parse_pointer(canonical(p)) for name, p in document["scenes"].items()},
                {Part(_kind(pin["kind"]), str(pin["name"])): str(pin["why"]) for pin in document["pins"]},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InvalidInput("file of generations", data[:64], f"is malformed: {error!r}") from error


@dataclass
class Restored:
    """Names of what is there now as the file says, generations in the order of loading; failures: what is
    not, and why."""

    generations: list[str] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)
    pins: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


async def read_published(redis: Server) -> Published:
    """Raises Unavailable, UnknownVersion, InvalidInput."""
    control = await read_control(redis)
    ordered = sorted(control.generations.values(), key=lambda g: (g.created_ms, g.id))
    return Published(tuple(ordered), control.scenes, control.pins)


async def restore(
    redis: Server,
    published: Published,
    *,
    by: str = "",
    progress: Callable[[str], Progress] = lambda name: lambda done, total: None,
) -> Restored:
    """Publish, point, pin, one after the other; what cannot be restored is told and stops nothing else.

    A scene that serves something keeps it. No gates are asked: what served is put back as it was, and the
    scene's log says so. Raises Unavailable where the server is gone.
    """
    report, generations, pins = Restored(), Generations(redis), Pins(redis)
    # An overlay needs its base: full tables first.
    for generation in sorted(published.generations, key=lambda g: g.id_table.base is not None):
        try:
            await republish(redis, generation, progress(generation.id))
            report.generations.append(generation.id)
        except Unavailable:
            raise
        except RepcenterError as error:
            report.failures[f"generation {generation.id}"] = str(error)
    for scene, pointer in published.scenes.items():
        there = set(report.generations)
        try:
            if pointer.generation_id not in there:
                raise NotFound("generation", pointer.generation_id)
            canary = pointer.canary if pointer.canary and pointer.canary.generation_id in there else None
            previous = tuple(name for name in pointer.previous if name in there)
            back = replace(pointer, previous=previous, canary=canary)
            await generations.restore(scene, back, trace=Trace(by))
            report.scenes.append(scene)
        except Unavailable:
            raise
        except RepcenterError as error:
            report.failures[f"scene {scene}"] = str(error)
    for part, why in published.pins.items():
        try:
            await pins.pin(part.name, why)
            report.pins.append(str(part))
        except Unavailable:
            raise
        except RepcenterError as error:
            report.failures[f"pin of {part}"] = str(error)
    return report


def _kind(text: object) -> Kind:
    if text not in LETTERS:
        raise InvalidInput("pins.kind", text, f"must be one of {', '.join(LETTERS)}")
    return text
