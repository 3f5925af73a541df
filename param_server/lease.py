"""One collection at a time: a lease that its holder renews and that ends with it."""

from __future__ import annotations

import asyncio
import time
import uuid
from types import TracebackType
from typing import Self

from contracts.errors import Conflict
from param_server import keys
from param_server.connection import redis_errors
from param_server.scripts import Script
from param_server.server import Server


class Lease:
    """`async with Lease(redis, 10)`: waits as long as another one's lease may last, then Conflict."""

    def __init__(self, redis: Server, seconds: float) -> None:
        self._script = Script(redis, "lease")
        self._name = uuid.uuid4().hex.encode()
        self._seconds = seconds
        self._renewed = 0.0

    async def __aenter__(self) -> Self:
        deadline = time.monotonic() + 1.5 * self._seconds
        while (left_ms := await self._ask(self._seconds)) is not None:
            if time.monotonic() > deadline:
                raise Conflict("another collection is running")
            await asyncio.sleep(min(left_ms / 1e3 + 0.01, self._seconds / 10))
        return self

    async def beat(self) -> None:
        """Renew where a third of the lease is over. Conflict where it was lost."""
        if (
            time.monotonic() - self._renewed > self._seconds / 3
            and await self._ask(self._seconds) is not None
        ):
            raise Conflict("this collection stood still for too long, another one has begun")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ask(0)  # changes nothing where it was lost

    async def _ask(self, seconds: float) -> float | None:
        """None where the lease is ours, else for how many ms another holds it."""
        asked = time.monotonic()
        async with redis_errors("lease of the collection"):
            status, *left = await self._script([keys.collector()], [self._name, b"%d" % round(seconds * 1e3)])
        if status == b"ok":
            self._renewed = asked
            return None
        return float(max(0, left[0]))
