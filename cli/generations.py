"""`repcenter generations`: what is published, in what two differ, what each scene serves and why."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.grid import grid
from cli.progress import stage
from cli.shelf import with_redis
from contracts.errors import InvalidInput, NotFound
from param_server.activation import Checked, activate_checked, canary_checked, check_generation
from param_server.activation_log import GateResult, LogLine, Trace, read_log
from param_server.coverage import coverage, live_catalogue
from param_server.generation_facts import Difference, differences, facts_of
from param_server.generations import Generations
from param_server.scene_pointer import ScenePointer
from param_server.server import Server
from param_server.settings import GenerationSettings

T = TypeVar("T")
_SHOWN = 60  # characters of a value


def limits(
    min_coverage: float | None,
    min_id_coverage: float | None,
    golden_tolerance: float | None,
    sample: int | None,
) -> GenerationSettings:
    """The settings, overridden by what was given."""
    given = {
        "min_coverage": min_coverage,
        "min_id_coverage": min_id_coverage,
        "golden_tolerance": golden_tolerance,
        "coverage_sample": sample,
    }
    return GenerationSettings().model_copy(update={k: v for k, v in given.items() if v is not None})


def print_generations(var: Path, as_json: bool) -> None:
    """Every generation and the scenes that serve it."""

    async def read(redis: Server) -> list[dict[str, Any]]:
        generations = Generations(redis)
        scenes = await generations.scenes()
        return [
            {
                "generation": g.id,
                "created_ms": g.created_ms,
                "space": g.space.id,
                "encoder": g.encoder_digest[:12],
                "ranker": g.ranker_digest[:12],
                "id_table": g.id_table.name,
                "scenes": [s for s, pointer in scenes.items() if pointer.generation_id == g.id],
                "canary_of": {
                    s: p.canary.share
                    for s, p in scenes.items()
                    if p.canary is not None and p.canary.generation_id == g.id
                },
                "previous_of": [s for s, pointer in scenes.items() if g.id in pointer.previous],
            }
            for g in await generations.list()
        ]

    rows = with_redis(var, read)
    if as_json:
        print(json.dumps(rows))
        return
    table = grid(
        "generation",
        "created",
        "space",
        "encoder",
        "ranker",
        "ID table",
        "serves",
        "tried by",
        "roll back in",
    )
    for row in rows:
        row["created_ms"] = _when(row["created_ms"])
        row["canary_of"] = [f"{share:.3g} of {s}" for s, share in row["canary_of"].items()]
        table.add_row(*(escape(", ".join(v) if isinstance(v, list) else str(v)) for v in row.values()))
    Console().print(table)


def print_difference(
    var: Path, first: str, second: str, scene: str, sample: int | None, as_json: bool
) -> None:
    """The facts that two generations do not share."""
    looked_at = limits(None, None, None, sample).coverage_sample

    async def read(redis: Server) -> tuple[list[Difference], int, str, int]:
        generations = Generations(redis)
        both = [await generations.get(first), await generations.get(second)]
        pointer = await generations.pointer(scene)
        serving = both[0] if pointer is None else await generations.get(pointer.generation_id)
        with stage(Console(stderr=as_json), "Coverage") as advance:
            catalogue = await live_catalogue(redis, serving.space, looked_at or None)
            covered = await coverage(redis, both, catalogue, advance)
        a, b = [await facts_of(redis, g, c) for g, c in zip(both, covered, strict=True)]
        found = differences(a, b)
        return found, len({*a, *b}) - len(found), catalogue.name, covered[0].items

    found, equal, catalogue, items = with_redis(var, read)
    if as_json:
        print(
            json.dumps(
                {
                    "first": first,
                    "second": second,
                    "coverage": {"catalogue": catalogue, "items": items},
                    "differences": [asdict(difference) for difference in found],
                    "equal": equal,
                }
            )
        )
        return
    table = Table("", first, second, title=f"coverage is of {items:,} {catalogue}")
    for difference in found:
        table.add_row(difference.fact, _value(difference.first), _value(difference.second))
    Console().print(table)
    print(f"{len(found)} facts differ, {equal} are equal")


def check(
    var: Path,
    generation: str,
    scene: str,
    settings: GenerationSettings,
    catalogue: Path | None,
    as_json: bool,
) -> None:
    """Print what the gates say; GateFailed where one fails."""

    async def ask(redis: Server) -> Checked:
        return await _ask(redis, generation, scene, settings, catalogue, as_json)

    checked = with_redis(var, ask)
    if as_json:
        gates = [asdict(gate) for gate in checked.gates]
        print(
            json.dumps({"generation": generation, "scene": scene, "passed": checked.passed, "gates": gates})
        )
    else:
        _print_gates(checked.gates)
    checked.refuse()


def activate(
    var: Path,
    generation: str,
    scene: str,
    settings: GenerationSettings,
    catalogue: Path | None,
    expected_revision: int | None,
    force: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Gates, then the pointer. force: the reason why a failed gate is overruled."""
    who = by or this_user()

    async def move(redis: Server) -> tuple[Checked, ScenePointer]:
        Trace(who, forced=force)  # refused before the gates have cost minutes
        checked = await _ask(redis, generation, scene, settings, catalogue, as_json)
        if not as_json:
            _print_gates(checked.gates)
        return checked, await activate_checked(
            redis, scene, checked, by=who, force=force, expected_revision=expected_revision
        )

    checked, pointer = with_redis(var, move)
    if as_json:
        gates = [asdict(gate) for gate in checked.gates]
        print(json.dumps({"scene": scene, **asdict(pointer), "gates": gates, "forced": not checked.passed}))
        return
    if not checked.passed:
        print(f"a gate failed and was overruled: {force}")
    print(f"scene {scene}: generation {pointer.generation_id}, revision {pointer.revision}")


def canary(
    var: Path,
    generation: str,
    scene: str,
    share: str,
    salt: str | None,
    settings: GenerationSettings,
    catalogue: Path | None,
    force: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Gates, then a share of the scene's users."""
    who, part = by or this_user(), _share(share)

    async def move(redis: Server) -> tuple[Checked, ScenePointer]:
        Trace(who, forced=force)
        checked = await _ask(redis, generation, scene, settings, catalogue, as_json)
        if not as_json:
            _print_gates(checked.gates)
        return checked, await canary_checked(redis, scene, checked, part, by=who, salt=salt, force=force)

    checked, pointer = with_redis(var, move)
    if as_json:
        gates = [asdict(gate) for gate in checked.gates]
        print(json.dumps({"scene": scene, **asdict(pointer), "gates": gates, "forced": not checked.passed}))
        return
    if not checked.passed:
        print(f"a gate failed and was overruled: {force}")
    _print_pointer(scene, pointer)


def promote(var: Path, scene: str, by: str | None, as_json: bool) -> None:
    """All users get the canary."""
    _moved(var, scene, by, as_json, lambda generations, trace: generations.promote(scene, trace=trace))


def abort(var: Path, scene: str, by: str | None, as_json: bool) -> None:
    """No user gets the canary any more."""
    _moved(var, scene, by, as_json, lambda generations, trace: generations.abort(scene, trace=trace))


def roll_back(var: Path, scene: str, by: str | None) -> None:
    """The generation before, at once."""
    _moved(var, scene, by, False, lambda generations, trace: generations.roll_back(scene, trace=trace))


def _moved(
    var: Path,
    scene: str,
    by: str | None,
    as_json: bool,
    move: Callable[[Generations, Trace], Awaitable[ScenePointer]],
) -> None:
    async def act(redis: Server) -> ScenePointer:
        return await move(Generations(redis), Trace(by or this_user()))

    pointer = with_redis(var, act)
    if as_json:
        print(json.dumps({"scene": scene, **asdict(pointer)}))
    else:
        _print_pointer(scene, pointer)


def _print_pointer(scene: str, pointer: ScenePointer) -> None:
    tried = pointer.canary
    told = "" if tried is None else f"; {tried.share:.4g} of users get {tried.generation_id}"
    print(f"scene {scene}: generation {pointer.generation_id}, revision {pointer.revision}{told}")


def _share(text: str) -> float:
    """5%, 0.05; InvalidInput."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise InvalidInput("share", text, "must be a share such as 5% or 0.05") from None


def print_log(var: Path, scene: str, count: int, as_json: bool) -> None:
    """The newest moves of a scene, newest first; NotFound where it never moved."""

    async def read(redis: Server) -> list[LogLine]:
        return await read_log(redis, scene, count)

    lines = with_redis(var, read)
    if not lines:
        raise NotFound("log of scene", scene)
    if as_json:
        print(json.dumps([line.to_json() for line in lines]))
        return
    table = Table("when", "who", "what", "from", "to", "revision", "gates", "forced", title=f"scene {scene}")
    for line in lines:
        gates = ", ".join(f"{g.gate} {'passed' if g.passed else 'FAILED'}" for g in line.trace.gates)
        table.add_row(
            _when(line.at_ms),
            escape(line.trace.by),
            line.action if line.share is None else f"{line.action} {line.share:.4g}",
            line.left or "nothing",
            line.to,
            str(line.revision),
            gates or "not asked",
            escape(line.trace.forced or ""),
        )
    Console().print(table)


async def _ask(
    redis: Server,
    generation: str,
    scene: str,
    settings: GenerationSettings,
    catalogue: Path | None,
    as_json: bool,
) -> Checked:
    with stage(Console(stderr=as_json), f"Gates of {generation} for scene {scene}") as advance:
        return await check_generation(
            redis, scene, generation, settings, catalogue=catalogue, progress=advance
        )


def _print_gates(gates: Sequence[GateResult]) -> None:
    table = Table("gate", "", "value", "threshold", "")
    for gate in gates:
        table.add_row(
            gate.gate,
            "passed" if gate.passed else "[red]failed[/red]",
            "" if gate.value is None else f"{gate.value:.6g}",
            "" if gate.threshold is None else f"{gate.threshold:.6g}",
            escape(gate.detail),
        )
    Console().print(table)


def this_user() -> str:
    """user@host of this process."""
    user = str(os.getuid())
    with suppress(KeyError):
        user = pwd.getpwuid(os.getuid()).pw_name
    return f"{user}@{socket.gethostname()}"[:200]


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _value(value: object) -> str:
    text = "–" if value is None else value if isinstance(value, str) else json.dumps(value)
    return escape(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
