"""How late an event loop stands: what a newcomer waits before any code of ours sees it."""

from __future__ import annotations

import asyncio
import time
from collections import deque

_EVERY_S = 0.01
_BEATS = 3  # one long turn makes one beat late, a queue that stands makes all of them late
_NOTHING_S = 0.001  # timers are that coarse


class LoopLag:
    """A heartbeat on the loop that `run` runs on; seconds() may be asked from any thread."""

    def __init__(self) -> None:
        self._late_s = deque([0.0] * _BEATS, maxlen=_BEATS)

    def seconds(self) -> float:
        """The least of the last beats' delays; 0 where that is next to nothing."""
        late_s = min(self._late_s)
        return late_s if late_s > _NOTHING_S else 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        try:
            while True:
                due = time.monotonic() + _EVERY_S
                await asyncio.sleep(_EVERY_S)
                self._late_s.append(time.monotonic() - due)
        finally:
            self._late_s.append(0.0)
