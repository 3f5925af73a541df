"""A backfill gives way: pushes are somebody waiting, a catalogue is not."""

from __future__ import annotations

import asyncio
import time

from realtime_infer.ingest import Ingest

_LOOK_S = 0.1
_UNTOUCHED_S = 2.0  # a backlog that does not change for so long is nobody's work now


class Courtesy:
    """most: pushes that may wait without holding a backfill up; longest_s: of one wait, so that it ends some
    day however many pushes come."""

    def __init__(self, ingest: Ingest, most: int, longest_s: float) -> None:
        self._ingest = ingest
        self._most = most
        self._longest_s = longest_s
        self.waited_s = 0.0

    async def give_way(self) -> None:
        """Wait while more than `most` pushes wait and are being worked on."""
        began = changed = time.monotonic()
        seen = await self._ingest.backlog()
        while seen.entries > self._most:
            await asyncio.sleep(_LOOK_S)
            backlog, now = await self._ingest.backlog(), time.monotonic()
            if (backlog.entries, backlog.payload_bytes) != (seen.entries, seen.payload_bytes):
                seen, changed = backlog, now
            if now - changed > _UNTOUCHED_S or now - began > self._longest_s:
                break
        self.waited_s += time.monotonic() - began
