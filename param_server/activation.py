"""Activation through the gates: what they say decides, or a reason that stays in the scene's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import Conflict, GateFailed, shown
from contracts.manifest import Generation
from param_server.activation_log import GateResult, Trace
from param_server.gates import run_gates
from param_server.generations import Generations
from param_server.scene_pointer import ScenePointer
from param_server.server import Server
from param_server.settings import GenerationSettings


@dataclass(frozen=True)
class Checked:
    """What the gates say of a generation in a scene. revision: of the pointer that they saw, 0 = none."""

    generation: Generation
    revision: int
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def refuse(self) -> None:
        """GateFailed of the first gate that failed, if any has."""
        for gate in self.gates:
            if not gate.passed:
                raise GateFailed(gate.gate, gate.value, gate.threshold, gate.detail)

    def trace(self, by: str, force: str | None) -> Trace:
        """What the log is told; GateFailed where a gate failed and no reason overrules it."""
        if force is None:
            self.refuse()
        return Trace(by, self.gates, None if self.passed else force)


async def check_generation(
    redis: Server,
    scene: str,
    generation_id: str,
    settings: GenerationSettings,
    *,
    catalogue: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Ask every gate, move nothing. NotFound (generation), Unavailable, InvalidInput (scene)."""
    generations = Generations(redis)
    pointer = await generations.pointer(scene)
    generation = await generations.get(generation_id)
    serving = None if pointer is None else await generations.get(pointer.generation_id)
    gates = await run_gates(redis, generation, serving, settings, catalogue=catalogue, progress=progress)
    return Checked(generation, pointer.revision if pointer else 0, gates)


async def activate_checked(
    redis: Server,
    scene: str,
    checked: Checked,
    *,
    by: str,
    force: str | None = None,
    expected_revision: int | None = None,
) -> ScenePointer:
    """Move the pointer that the gates looked at. force: why a failed gate is overruled; expected_revision:
    that the caller saw before the gates were asked.

    Raises GateFailed; Conflict where the scene was moved since then.
    """
    if expected_revision is not None and checked.revision != expected_revision:
        raise Conflict(
            f"scene {shown(scene)} is at revision {checked.revision}, expected {expected_revision}"
        )
    return await Generations(redis).activate(
        scene,
        checked.generation.id,
        expected_revision=checked.revision,
        trace=checked.trace(by, force),
    )


async def canary_checked(
    redis: Server,
    scene: str,
    checked: Checked,
    share: float,
    *,
    by: str,
    salt: str | None = None,
    force: str | None = None,
) -> ScenePointer:
    """Let a share of the scene's users get what the gates looked at. Raises as activate_checked; NotFound
    (scene), InvalidInput (share, salt)."""
    return await Generations(redis).canary(
        scene,
        checked.generation.id,
        share,
        salt=salt,
        expected_revision=checked.revision,
        trace=checked.trace(by, force),
    )
