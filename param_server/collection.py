"""Collection: what serves no more leaves the server in the background, in steps that can be killed.

Marking is one script: parts leave everything that finds them and are noted in `collecting`, all or none, and
only where nobody has used them since the plan was made. What is noted is removed, by this run or the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from contracts.errors import Conflict
from param_server import keys
from param_server.collection_plan import Kept, Plan, plan
from param_server.connection import redis_errors
from param_server.control import Control, read_control
from param_server.lease import Lease
from param_server.parts import LETTERS, Part
from param_server.removal import family_of, retire, unlink_rows
from param_server.scripts import Script
from param_server.server import Server
from param_server.settings import GenerationSettings
from param_server.window_stream import window_keys

SETTLE_S = 2.0  # what was asked before every shard was retired has been answered
LEASE_S = 10.0
_ATTEMPTS = 8

Progress = Callable[[str, int, int], None]


@dataclass
class Collected:
    """parts: that are gone; resumed: of them, those that an earlier collection had begun; keys: unlinked."""

    parts: list[Part] = field(default_factory=list)
    resumed: list[Part] = field(default_factory=list)
    keys: int = 0
    kept: tuple[Kept, ...] = ()


async def plan_collection(redis: Server, settings: GenerationSettings) -> tuple[Plan, list[Part]]:
    """What `collect` would take now, and what an earlier one has left. Writes nothing."""
    control = await read_control(redis)
    return plan(control, settings), sorted(control.collecting)


async def collect(
    redis: Server,
    settings: GenerationSettings,
    *,
    stream: Server | None = None,
    progress: Progress | None = None,
    settle_s: float = SETTLE_S,
    lease_s: float = LEASE_S,
) -> Collected:
    """Collect everything that may go. stream: a client of the server of window streams, None = the same one;
    progress: called with a part's name, its buckets done and in all.

    Raises Conflict (another collection runs, or others publish all the time), UnknownVersion or InvalidInput
    (what is published cannot be read: nothing is collected), Unavailable; what was marked goes with the next.
    """
    report = Collected()
    async with Lease(redis, lease_s) as lease:
        control = await read_control(redis)
        report.resumed = sorted(control.collecting)
        control, made = await _mark(redis, control, settings)
        report.kept = made.kept
        report.parts = [part for part in made.parts if part.kind == "generation"]
        left = sorted(control.collecting.items(), key=lambda item: (item[0].kind != "space", item[0]))
        for part, stored in left:
            await retire(redis, part, family_of(part, stored))
        for _ in range(8 if left else 0):
            await asyncio.sleep(settle_s / 8)
            await lease.beat()
        for part, stored in left:
            report.keys += await _remove(redis, part, stored, lease, stream or redis, progress)
            report.parts.append(part)
    return report


async def _mark(redis: Server, control: Control, settings: GenerationSettings) -> tuple[Control, Plan]:
    """Plan and mark until nobody came in between -> what is there after it, and what was marked."""
    script = Script(redis, "mark_parts")
    names = [
        *(keys.scenes(), keys.generations(), keys.spaces(), keys.id_tables(), keys.id_tables_sealed()),
        *(keys.used(), keys.published(), keys.pins(), keys.collecting(), keys.probes(), keys.loads()),
    ]
    for _ in range(_ATTEMPTS):
        adopt = [part for part in control.parts() if part not in control.used]
        control = await read_control(redis, adopt)
        made = plan(control, settings)
        if not made.parts:
            return control, made
        async with redis_errors("mark what is collected"):
            status, *_ = await script(names, _marks(control, made))
        control = await read_control(redis)
        if status == b"ok":
            return control, made
    raise Conflict("generations were published or moved by others all the time: collect again")


def _marks(control: Control, made: Plan) -> list[bytes]:
    values = [b"%d" % len(made.pointers)]
    for scene, gone in made.pointers.items():
        pointer = control.scenes[scene]
        shorter = replace(pointer, previous=tuple(g for g in pointer.previous if g not in gone))
        values += [scene.encode(), control.raw_pointers[scene], shorter.to_bytes()]
    for part in made.parts:
        values += [part.field, LETTERS[part.kind], part.name.encode(), control.used[part]]
    return values


async def _remove(
    redis: Server,
    part: Part,
    stored: bytes,
    lease: Lease,
    stream: Server,
    progress: Progress | None,
) -> int:
    def say(done: int, total: int) -> None:
        if progress is not None:
            progress(str(part), done, total)

    removed = await unlink_rows(redis, part, family_of(part, stored), lease.beat, say)
    async with redis_errors(f"finish {part}"):
        if part.kind == "space":
            await stream.unlink(*cast(list[str], window_keys(part.name)))
        await cast(Any, redis.hdel(cast(str, keys.collecting()), cast(str, part.field)))
    return removed
