"""The Lua scripts that ship beside this file: each runs in the server as one atomic step."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, cast

from redis.asyncio import Redis


@cache
def _source(name: str) -> str:
    return (files("param_server") / f"{name}.lua").read_text("ascii")


class Script:
    """One script of a client: EVALSHA, and EVAL where the server does not know it yet."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._script = redis.register_script(_source(name))

    async def __call__(self, names: list[bytes], values: list[bytes]) -> list[Any]:
        """names: every key that the script touches; values: its ARGV -> its reply, a list."""
        return cast(list[Any], await self._script(keys=names, args=values))
