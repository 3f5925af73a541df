"""Parts of the shelf that live and are collected as wholes: generations, spaces, ID tables.

Each has one name (`Part.field`) in the hashes that tell of its use: used, pins, collecting.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from contracts.errors import Conflict, InvalidInput, NotFound, shown
from param_server import keys
from param_server.connection import redis_errors
from param_server.scripts import Script
from param_server.server import Server

Kind = Literal["generation", "space", "id_table"]
LETTERS: dict[Kind, bytes] = {"generation": b"g", "space": b"s", "id_table": b"t"}
_KINDS = {letter: kind for kind, letter in LETTERS.items()}
_USE_EVERY_S = 60.0  # a writer says so often that it writes: well below any grace of a collection


@dataclass(frozen=True, order=True)
class Part:
    """name: a generation's id, a space's id or an ID table's name."""

    kind: Kind
    name: str

    @property
    def field(self) -> bytes:
        return LETTERS[self.kind] + b":" + self.name.encode()

    def __str__(self) -> str:
        return f"{self.kind.replace('id_', 'ID ')} {self.name}"


def parse_part(field: bytes) -> Part:
    """`Part.field` back; InvalidInput."""
    letter, colon, name = field.partition(b":")
    if letter not in _KINDS or not colon:
        raise InvalidInput("part", field, "must begin with g:, s: or t:")
    return Part(_KINDS[letter], name.decode())


class Uses:
    """Says of spaces and ID tables that they are in use, so that none is collected under its writer."""

    def __init__(self, redis: Server) -> None:
        self._script = Script(redis, "use_part")
        self._said: dict[Part, float] = {}  # time.monotonic()

    async def create(self, part: Part, value: bytes) -> bytes | None:
        """Store a space's header or an ID table's description, where none is; another one that is: returned.

        Raises Conflict while a part of this name is being collected, Unavailable.
        """
        status, *stored = await self._run(part, value)
        return bytes(stored[0]) if status == b"other" else None

    async def write(self, part: Part) -> None:
        """Before something is written; tells the server once a minute. NotFound, Conflict, Unavailable."""
        now = time.monotonic()
        if now - self._said.get(part, -_USE_EVERY_S) < _USE_EVERY_S:
            return
        if (await self._run(part, b""))[0] == b"absent":
            raise NotFound(part.kind.replace("id_", "ID "), part.name)
        self._said[part] = now

    async def seal(self, part: Part) -> None:
        """Call an ID table sealed. NotFound, Conflict, Unavailable."""
        if (await self._run(part, b"", b"seal"))[0] == b"absent":
            raise NotFound("ID table", part.name)

    async def _run(self, part: Part, value: bytes, step: bytes = b"") -> list[bytes]:
        place = keys.spaces() if part.kind == "space" else keys.id_tables()
        async with redis_errors(f"use {part}"):
            reply = await self._script(
                # a key in a call is one that the caller's user must be allowed to write
                [place, keys.used(), keys.collecting(), *([keys.id_tables_sealed()] if step else [])],
                [part.name.encode(), part.field, value, step],
            )
        if reply[0] == b"collecting":
            raise Conflict(
                f"{shown(str(part))} is being collected; once `repcenter generations collect` has finished, "
                "it can be made again"
            )
        return reply
