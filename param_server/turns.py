"""Readers timed in turn, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
Sample = tuple[float, float]  # seconds by the clock, seconds of the reading process's CPU
Reader = Callable[[Sequence[npt.NDArray[np.int64]]], Awaitable[Sequence[Sample]]]


@dataclass(frozen=True)
class Times:
    """Of R reads: clock and cpu (R,) seconds."""

    clock: Seconds
    cpu: Seconds

    def ms(self, percentile: float) -> float:
        """By the clock."""
        return float(np.percentile(self.clock, percentile)) * 1e3

    @property
    def cpu_ms(self) -> float:
        """Median; other work on the machine hardly moves it, but it leaves out the server."""
        return float(np.median(self.cpu)) * 1e3


async def in_turn(
    readers: Mapping[str, Reader], total: int, count: int, turns: int, block: int = 1, warm: int = 0
) -> dict[str, Times]:
    """Each reader reads `block` times `count` distinct places of `total`, then the next reader the same ones;
    every second turn goes backwards. warm: reads at the beginning of a block that do not count."""
    draw = np.random.default_rng(count)
    taken: dict[str, list[Sample]] = {name: [] for name in readers}
    for turn in range(turns):
        places = [draw.choice(total, count, replace=False) for _ in range(block)]
        for name in list(readers)[:: 1 if turn % 2 else -1]:
            taken[name] += list(await readers[name](places))[warm:]
    return {
        name: Times(np.array([clock for clock, _ in samples]), np.array([cpu for _, cpu in samples]))
        for name, samples in taken.items()
    }
