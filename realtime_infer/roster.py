"""Which workers there are and which spaces each encodes for: said by them, a hash on the stream's server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from param_server.connection import redis_errors
from param_server.server import Server
from realtime_infer.stream_keys import WORKERS

_GONE_S = 60.0


@dataclass(frozen=True)
class Present:
    """A worker. spaces: ids, the live one first; age_s: since it last said so."""

    consumer: str
    spaces: tuple[str, ...]
    age_s: float


class Roster:
    """Raises Unavailable where the stream's server is gone."""

    def __init__(self, stream: Server) -> None:
        self._stream = stream

    async def say(self, consumer: str, spaces: Sequence[str]) -> None:
        """This worker is there and encodes every push from now on for these spaces."""
        value = orjson.dumps({"spaces": list(spaces), "ms": time.time_ns() // 1_000_000})
        async with redis_errors("say that a worker is there"):
            reply: Any = self._stream.hset(WORKERS.decode(), consumer, value.decode())
            await reply

    async def leave(self, consumer: str) -> None:
        """This worker ends."""
        async with redis_errors("say that a worker ends"):
            reply: Any = self._stream.hdel(WORKERS.decode(), consumer)
            await reply

    async def present(self) -> list[Present]:
        """Workers that said so within a minute, by name."""
        async with redis_errors("read which workers there are"):
            reply: Any = self._stream.hgetall(WORKERS.decode())
            found: dict[bytes, bytes] = await reply
        now_ms = time.time() * 1000
        workers = []
        for name, value in sorted(found.items()):
            said = orjson.loads(value)
            age_s = max(0.0, (now_ms - said["ms"]) / 1000)
            if age_s <= _GONE_S:
                workers.append(Present(name.decode("utf-8", "replace"), tuple(said["spaces"]), age_s))
        return workers
