"""How far bulk loads have come, in the table server itself: what it loses, it loses with the rows.

An entry is written behind the rows that it tells of, and goes when the load is done.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

from contracts.manifest import canonical
from param_server import keys
from param_server.connection import redis_errors
from param_server.server import Server

LEDGER_VERSION = 2


@dataclass(frozen=True)
class Progress:
    """rows: all before this one are in the table; sequence: that the load gives, 0 where they bring some;
    server: the `run_id` of who holds them."""

    rows: int
    sequence: int
    server: str

    def holds_on(self, server: str) -> bool:
        """Whether what is told here can be believed of a server with this `run_id`.

        One server that was restarted keeps its writes in their order: where the entry is, the rows before it
        are. Of a cluster's nodes one may have lost rows that the entry, on another, tells of.
        """
        return self.server == server or " " not in server


class LoadLedger:
    """The entry of one load. name: of its space and its files' identity."""

    def __init__(self, redis: Server, name: str) -> None:
        self._redis = redis
        self._name = name

    async def read(self) -> Progress | None:
        """None where there is no such load, or one of a version that this build does not read."""
        async with redis_errors("read how far a load is"):
            value = await cast(Any, self._redis.hget(cast(str, keys.loads()), self._name))
        document = json.loads(value) if value else {}
        if document.get("version") != LEDGER_VERSION:
            return None
        return Progress(int(document["rows"]), int(document["sequence"]), document["server"])

    async def write(self, progress: Progress) -> None:
        """Replace the entry."""
        document = {"version": LEDGER_VERSION, **asdict(progress)}
        async with redis_errors("write how far a load is"):
            await cast(
                Any,
                self._redis.hset(cast(str, keys.loads()), self._name, cast(str, canonical(document))),
            )

    async def finish(self) -> None:
        """The load is done: loading the same files again writes them again."""
        async with redis_errors("finish a load"):
            await cast(Any, self._redis.hdel(cast(str, keys.loads()), self._name))
