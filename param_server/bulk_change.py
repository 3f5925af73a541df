"""Many rows of a space change without windows: who holds copies is told before, and as long as it lasts."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from contracts.errors import RepcenterError
from contracts.space import Space
from param_server.server import Server
from param_server.window_stream import DEFAULT_WINDOW_BYTES, LONGEST_CHANGE_MS, Announcements, ChangeNotice

_LASTS_MS = LONGEST_CHANGE_MS
_AGAIN_S = 15.0  # leaves a commit 45 s, retries and a busy server included


class BulkChange:
    """`hold` before each commit. Leaving in good order ends the notice. A writer that dies leaves it to run
    out, and so does one that leaves with an error: a commit that it gave up may still wait at the server.
    """

    def __init__(
        self, stream: Server, space: Space, max_windows: int, max_bytes: int = DEFAULT_WINDOW_BYTES
    ) -> None:
        """stream: a client of the stream's server; the bounds: of the space's stream."""
        self._announcements, self._space = Announcements(stream, max_windows, max_bytes), space
        self._writer = os.urandom(8).hex()
        self._sent_at = -float("inf")
        self._sending = asyncio.Lock()

    async def hold(self) -> None:
        """Rows may be committed now. Raises Unavailable where the stream's server is gone."""
        async with self._sending:
            now = time.monotonic()
            if now - self._sent_at > _AGAIN_S:
                await self._send(_LASTS_MS)
                self._sent_at = now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._sent_at > -float("inf"):
            with suppress(RepcenterError):  # it runs out by itself
                await self._send(0)

    async def _send(self, lasts_ms: int) -> None:
        ((field, value),) = ChangeNotice(self._writer, lasts_ms).fields().items()
        await self._announcements.add(self._space.id, field, value)
