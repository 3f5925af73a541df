"""Parts that are never collected, whoever needs them or not, and why."""

from __future__ import annotations

from typing import Any, cast

from contracts.errors import InvalidInput, NotFound
from param_server import keys
from param_server.connection import redis_errors
from param_server.control import read_control
from param_server.parts import Part
from param_server.server import Server

_MAX_WHY = 1_000  # characters


class Pins:
    """Names are a generation's id, the beginning of a space's id, or an ID table's name."""

    def __init__(self, redis: Server) -> None:
        self._redis = redis

    async def pin(self, name: str, why: str) -> Part:
        """NotFound, InvalidInput (more than one such part, or no reason), Unavailable."""
        if not 1 <= len(why.strip()) <= _MAX_WHY:
            raise InvalidInput("reason", why, f"must be 1 to {_MAX_WHY} characters")
        part = _named(name, (await read_control(self._redis)).parts())
        async with redis_errors(f"pin {part}"):
            await cast(Any, self._redis.hset(cast(str, keys.pins()), cast(str, part.field), why))
        return part

    async def unpin(self, name: str) -> Part:
        """NotFound (nothing of this name is pinned), InvalidInput, Unavailable."""
        part = _named(name, list((await read_control(self._redis)).pins))
        async with redis_errors(f"unpin {part}"):
            await cast(Any, self._redis.hdel(cast(str, keys.pins()), cast(str, part.field)))
        return part


def _named(name: str, parts: list[Part]) -> Part:
    found = [p for p in parts if p.name == name]
    found = found or [p for p in parts if p.kind == "space" and name and p.name.startswith(name)]
    if not found:
        raise NotFound("generation, space or ID table", name)
    if len(found) > 1:
        raise InvalidInput("name", name, f"is that of {', '.join(map(str, found))}")
    return found[0]
