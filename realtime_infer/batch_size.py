"""How many entries a micro-batch takes, learnt from how long the encoder takes for them.

A processor gains little from large batches and pays for them with everybody's waiting; an accelerator needs
them. So the size doubles while a full batch stays below half of the budget, grows by one up to the budget,
and falls in proportion above it.
"""

from __future__ import annotations

_FIRST = 16


class BatchSize:
    """most: never above; budget_s: seconds that the encoding of one batch may take."""

    def __init__(self, most: int, budget_s: float) -> None:
        self._most = most
        self._budget_s = budget_s
        self.now = min(_FIRST, most)

    def took(self, entries: int, seconds: float) -> None:
        """A batch of so many entries was encoded in so many seconds."""
        if seconds > self._budget_s:
            self.now = max(1, min(self.now - 1, int(entries * self._budget_s / seconds)))
        elif entries >= self.now:
            step = self.now if seconds < self._budget_s / 2 else 1
            self.now = min(self._most, self.now + step)
