"""Generations and the scenes that they serve: publish, list, activate, try on a share of users, roll back.

A scene's pointer moves by compare-and-set on its exact bytes, which hold a revision that only grows, so two
writers never both believe that they were first. Every move writes a line of the scene's log.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from contracts.bundle import open_bundle
from contracts.errors import Conflict, NotFound, SpaceMismatch, shown
from contracts.items import check_item_id
from contracts.manifest import Generation, parse_generation
from contracts.ranker_spec import ranker_spec_from_json
from param_server import keys
from param_server.activation_log import LINES, Action, LogLine, Trace
from param_server.connection import redis_errors
from param_server.parts import Part
from param_server.scene_pointer import MAX_PREVIOUS, Canary, ScenePointer, parse_pointer
from param_server.scripts import Script
from param_server.server import Server
from param_server.store import Store, id_table_description

_ATTEMPTS = 16


class Generations:
    """Generations on one server. Every method raises Unavailable where the server is gone."""

    def __init__(self, redis: Server) -> None:
        self._redis = redis
        self._store = Store(redis)
        self._publish = Script(redis, "publish_generation")
        self._swap = Script(redis, "swap_pointer")

    async def publish(self, generation: Generation) -> str:
        """Check that the parts belong together, then store the generation -> its id. Idempotent.

        Opens the ranker's bundle (every digest is checked). Raises SpaceMismatch where the ranker, the
        encoder or the table's header is of another space; NotFound where bundle or space is absent;
        Conflict where the ID table is not ready or not the ranker's; BrokenBundle, UnknownVersion.
        """
        space, table = generation.space, generation.id_table
        bundle = await asyncio.to_thread(open_bundle, generation.ranker_uri, generation.ranker_digest)
        if bundle.manifest.kind != "ranker":
            raise Conflict(f"bundle {generation.ranker_uri} is of kind {bundle.manifest.kind}, not ranker")
        spec = ranker_spec_from_json(dict(bundle.manifest.content))
        if spec.space != space:
            raise SpaceMismatch(space.id, spec.space.id, f"ranker {bundle.digest[:12]}")
        if generation.encoder_digest != space.encoder_digest:
            raise SpaceMismatch(space.encoder_digest[:12], generation.encoder_digest[:12], "encoder digest")
        needed = (spec.id_row_count, spec.id_codec, spec.schema.id_dim, spec.id_base)
        given = (table.rows, table.codec, table.dim, table.base)
        if needed != given:
            raise Conflict(
                f"ID table {table.name} has rows, codec, dim, base {given}, the ranker needs {needed}"
            )
        stored = await self._store.space(space.id)
        if stored != space:
            raise SpaceMismatch(space.header().decode(), stored.header().decode(), "space header")
        if not await self._store.id_table_ready(table):
            raise Conflict(f"ID table {table.name} is not loaded and sealed")
        await self._write(generation)
        return generation.id

    async def _write(self, generation: Generation) -> None:
        """Store the manifest where every part is there at that moment: a collection may have taken one."""
        space, table = generation.space, generation.id_table
        tables = [(table.name, id_table_description(table))]
        if table.base is not None:
            tables.append((table.base, b""))
        values = [generation.id.encode(), generation.to_bytes(), Part("generation", generation.id).field]
        values += [space.id.encode(), space.header(), Part("space", space.id).field]
        for name, description in tables:
            values += [name.encode(), description, Part("id_table", name).field]
        async with redis_errors("publish a generation"):
            status, *missing = await self._publish(
                [
                    keys.generations(),
                    keys.spaces(),
                    keys.id_tables(),
                    keys.id_tables_sealed(),
                    keys.used(),
                    keys.published(),
                ],
                values,
            )
        if status == b"space":
            raise NotFound("space", space.id)
        if status == b"table":
            raise Conflict(f"ID table {missing[0].decode()} is not loaded and sealed")

    async def get(self, generation_id: str) -> Generation:
        """A published generation; NotFound, UnknownVersion."""
        async with redis_errors("read a generation"):
            data = await cast(Any, self._redis.hget(cast(str, keys.generations()), generation_id))
        if data is None:
            raise NotFound("generation", generation_id)
        return parse_generation(data)

    async def list(self) -> builtins.list[Generation]:
        """All published generations, oldest first."""
        async with redis_errors("list generations"):
            values = await cast(Any, self._redis.hvals(cast(str, keys.generations())))
        return sorted((parse_generation(data) for data in values), key=lambda g: (g.created_ms, g.id))

    async def scenes(self) -> dict[str, ScenePointer]:
        """Every scene's pointer, by name."""
        async with redis_errors("list scenes"):
            found = await cast(Any, self._redis.hgetall(cast(str, keys.scenes())))
        return {scene.decode(): parse_pointer(data) for scene, data in sorted(found.items())}

    async def pointer(self, scene: str) -> ScenePointer | None:
        """A scene's pointer; None where nothing was ever activated."""
        return (await self._read(scene))[0]

    async def activate(
        self,
        scene: str,
        generation_id: str,
        *,
        expected_revision: int | None = None,
        trace: Trace | None = None,
    ) -> ScenePointer:
        """Point a scene at a published generation, atomically; what is active already is left as it is.
        Activating its canary promotes it; Conflict where another one is being tried.

        Asks no gates: param_server.activation does, and tells in `trace` what they said.
        expected_revision: the revision that the caller saw (0: none yet); Conflict where it is another
        by now. Raises NotFound where the generation is not published.
        """

        def move(current: ScenePointer | None) -> ScenePointer:
            revision = current.revision if current else 0
            if expected_revision is not None and revision != expected_revision:
                raise Conflict(
                    f"scene {shown(scene)} is at revision {revision}, expected {expected_revision}"
                )
            if current is None:
                return ScenePointer(generation_id, 1)
            if current.generation_id == generation_id:
                return current
            if current.canary is not None and current.canary.generation_id != generation_id:
                raise Conflict(
                    f"scene {shown(scene)} tries generation {current.canary.generation_id} on a share of "
                    "users: promote or abort it first"
                )
            previous = (current.generation_id, *current.previous)[:MAX_PREVIOUS]
            return ScenePointer(generation_id, revision + 1, previous)

        return await self._move(scene, move, "activate", trace or Trace())

    async def roll_back(self, scene: str, *, trace: Trace | None = None) -> ScenePointer:
        """Point a scene at the generation before; a canary ends. NotFound where there is none."""

        def move(current: ScenePointer | None) -> ScenePointer:
            if current is None:
                raise NotFound("scene", scene)
            if not current.previous:
                raise NotFound("earlier generation of scene", scene)
            return ScenePointer(current.previous[0], current.revision + 1, current.previous[1:])

        return await self._move(scene, move, "roll back", trace or Trace())

    async def canary(
        self,
        scene: str,
        generation_id: str,
        share: float,
        *,
        salt: str | None = None,
        expected_revision: int | None = None,
        trace: Trace | None = None,
    ) -> ScenePointer:
        """Let a share of a scene's users get a published generation; again with another share: more or fewer.

        salt: decides which users, None = the one it has, or the generation's id. Asks no gates. Raises
        NotFound (scene, generation), InvalidInput (share, salt), Conflict (it is active, another canary runs,
        or the revision is another by now).
        """

        def move(current: ScenePointer | None) -> ScenePointer:
            if current is None:
                raise NotFound("scene", scene)
            if expected_revision is not None and current.revision != expected_revision:
                raise Conflict(
                    f"scene {shown(scene)} is at revision {current.revision}, expected {expected_revision}"
                )
            if current.generation_id == generation_id:
                raise Conflict(f"scene {shown(scene)} serves generation {generation_id} already")
            old = current.canary
            if old is not None and old.generation_id != generation_id:
                raise Conflict(f"scene {shown(scene)} tries generation {old.generation_id}: abort it first")
            new = Canary(generation_id, share, salt or (old.salt if old else generation_id))
            return current if new == old else replace(current, revision=current.revision + 1, canary=new)

        return await self._move(scene, move, "canary", trace or Trace())

    async def promote(self, scene: str, *, trace: Trace | None = None) -> ScenePointer:
        """Let all users of a scene get its canary. Conflict where there is none."""

        def move(current: ScenePointer | None) -> ScenePointer:
            canary = _canary_of(scene, current)
            assert current is not None
            previous = (current.generation_id, *current.previous)[:MAX_PREVIOUS]
            return ScenePointer(canary.generation_id, current.revision + 1, previous)

        return await self._move(scene, move, "promote", trace or Trace())

    async def abort(self, scene: str, *, trace: Trace | None = None) -> ScenePointer:
        """Let no user of a scene get its canary any more. Conflict where there is none."""

        def move(current: ScenePointer | None) -> ScenePointer:
            _canary_of(scene, current)
            assert current is not None
            return replace(current, revision=current.revision + 1, canary=None)

        return await self._move(scene, move, "abort", trace or Trace())

    async def restore(self, scene: str, pointer: ScenePointer, *, trace: Trace | None = None) -> ScenePointer:
        """Point a scene that points nowhere as an earlier server's did, revision and all. Conflict where it
        serves something else by now, NotFound where the generation is not published."""

        def move(current: ScenePointer | None) -> ScenePointer:
            if current is not None and current.generation_id != pointer.generation_id:
                raise Conflict(f"scene {shown(scene)} serves generation {current.generation_id} already")
            return pointer if current is None else current

        return await self._move(scene, move, "restore", trace or Trace())

    async def _read(self, scene: str) -> tuple[ScenePointer | None, bytes]:
        check_item_id(scene, "scene")
        async with redis_errors(f"read scene {shown(scene)}"):
            data = await cast(Any, self._redis.hget(cast(str, keys.scenes()), scene))
        return (None, b"") if data is None else (parse_pointer(data), data)

    async def _move(
        self,
        scene: str,
        move: Callable[[ScenePointer | None], ScenePointer],
        action: Action,
        trace: Trace,
    ) -> ScenePointer:
        for _ in range(_ATTEMPTS):
            current, read = await self._read(scene)
            new = move(current)
            if new == current:
                return new
            left, to = _from_to(current, new)
            share = None if new.canary is None else new.canary.share
            line = LogLine(0, action, left, to, new.revision, trace, share)
            leaving = [old for old in (current.canary if current else None,) if old is not None]
            async with redis_errors(f"move scene {shown(scene)}"):
                (status,) = await self._swap(
                    [keys.scenes(), keys.generations(), keys.used(), keys.activations(scene)],
                    [
                        scene.encode(),
                        read,
                        new.to_bytes(),
                        to.encode(),
                        Part("generation", to).field,
                        b"" if left is None else Part("generation", left).field,
                        line.to_bytes(),
                        b"%d" % LINES,
                        *(Part("generation", old.generation_id).field for old in leaving),
                    ],
                )
            if status == b"generation":
                raise NotFound("generation", to)
            if status == b"ok":
                return new
        raise Conflict(f"scene {shown(scene)} was moved by others {_ATTEMPTS} times in a row")


def _canary_of(scene: str, pointer: ScenePointer | None) -> Canary:
    if pointer is None:
        raise NotFound("scene", scene)
    if pointer.canary is None:
        raise Conflict(f"scene {shown(scene)} has no canary")
    return pointer.canary


def _from_to(current: ScenePointer | None, new: ScenePointer) -> tuple[str | None, str]:
    """The generations that a move is about: of a canary that begins or ends, it is one of them."""
    if current is None or current.generation_id != new.generation_id:
        return (current.generation_id if current else None), new.generation_id
    if new.canary is not None:
        return current.generation_id, new.canary.generation_id
    return (current.canary.generation_id if current.canary else None), new.generation_id
