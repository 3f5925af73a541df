"""What a collection may take: generations that no scene serves or could roll back to, then spaces and ID
tables that no generation needs. Nothing that is pinned, nothing that was in use a short while ago."""

from __future__ import annotations

from dataclasses import dataclass

from param_server.control import Control
from param_server.parts import Part
from param_server.settings import GenerationSettings


@dataclass(frozen=True)
class Kept:
    """A part that stays, and why."""

    part: Part
    why: str


@dataclass(frozen=True)
class Plan:
    """parts: to be collected, generations first; pointers: scene -> what it loses of its past."""

    parts: tuple[Part, ...]
    pointers: dict[str, tuple[str, ...]]
    kept: tuple[Kept, ...]


def plan(control: Control, settings: GenerationSettings) -> Plan:
    """Pure: the same of the same."""
    taken: list[Part] = []
    kept: list[Kept] = []

    def weigh(part: Part, needed_by: str | None) -> bool:
        why = needed_by or _spared(control, part, settings)
        if why is None:
            taken.append(part)
        else:
            kept.append(Kept(part, why))
        return why is not None

    needs: dict[Part, str] = {}
    for scene, pointer in control.scenes.items():
        for name in reversed(pointer.previous[: settings.collect_keep]):
            needs[Part("generation", name)] = f"scene {scene} can be rolled back to it"
    for scene, pointer in control.scenes.items():
        needs[Part("generation", pointer.generation_id)] = f"scene {scene} serves it"
        if pointer.canary is not None:
            needs[Part("generation", pointer.canary.generation_id)] = f"scene {scene} tries it"
    for name, generation in control.generations.items():
        part = Part("generation", name)
        if weigh(part, needs.get(part)):
            why = f"generation {name} needs it"
            needs[Part("space", generation.space.id)] = why
            needs[Part("id_table", generation.id_table.name)] = why
            if generation.id_table.base is not None:
                needs[Part("id_table", generation.id_table.base)] = why
    for name in control.spaces:
        part = Part("space", name)
        weigh(part, needs.get(part))
    # Overlays first: one that stays keeps its base.
    for name, table in sorted(control.id_tables.items(), key=lambda item: (item[1].base is None, item[0])):
        part = Part("id_table", name)
        if weigh(part, needs.get(part)) and table.base is not None:
            needs.setdefault(Part("id_table", table.base), f"ID table {name} lies over it")
    pointers = {
        scene: gone
        for scene, pointer in control.scenes.items()
        if (gone := tuple(name for name in pointer.previous if Part("generation", name) in set(taken)))
    }
    return Plan(tuple(taken), pointers, tuple(kept))


def _spared(control: Control, part: Part, settings: GenerationSettings) -> str | None:
    """Why a part that nobody needs stays all the same; None where it goes."""
    if part in control.pins:
        return f"pinned: {control.pins[part]}"
    grace, why = settings.collect_grace_s, ""
    if part.kind == "space" and part.name in control.loading:
        grace, why = max(grace, settings.collect_unpublished_s), ", a load of it has not finished"
    elif part.kind != "generation" and part not in control.published:
        grace, why = max(grace, settings.collect_unpublished_s), ", no generation ever named it"
    idle = control.idle_s(part)
    if idle is None:
        return None if grace == 0 else "its last use is not known; it counts from the first collection on"
    return None if idle >= grace else f"in use {idle:,.0f} s ago, goes after {grace:,.0f} s{why}"
