"""A closed loop, for the most that a server can do; an open one, for how long its users wait."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtests.wire import OK, Answer, Wire

_SPIN_S = (
    0.0015  # asyncio's timers are whole milliseconds: the last one is waited for by looking at the clock
)
_MOST_IN_FLIGHT = 2_000


@dataclass
class Load:
    """What came back in `seconds`. answers: the payload's number, the answer, ms since it was due."""

    seconds: float = 0.0
    answers: list[tuple[int, Answer, float]] = field(default_factory=list)

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(Counter(answer.outcome for _, answer, _ in self.answers))

    @property
    def per_s(self) -> float:
        """Answers that are ok."""
        return self.outcomes.get(OK, 0) / self.seconds

    def ms(self, percentile: float, *outcomes: str) -> float | None:
        """Of answers with these outcomes, None where there are none."""
        taken = [ms for _, answer, ms in self.answers if answer.outcome in outcomes]
        return float(np.percentile(taken, percentile)) if taken else None


async def closed_loop(wire: Wire, payloads: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Each of `connections` callers sends its next request when the last one is answered."""
    load, turn = Load(), itertools.cycle(range(len(payloads)))
    began = time.perf_counter()

    async def caller() -> None:
        while (sent := time.perf_counter()) - began < seconds:
            number = next(turn)
            answer = await wire.call(payloads[number])
            load.answers.append((number, answer, (time.perf_counter() - sent) * 1e3))

    await asyncio.gather(*(caller() for _ in range(connections)))
    load.seconds = time.perf_counter() - began
    return load


async def open_loop(
    wire: Wire, payloads: Sequence[bytes], rate: float, seconds: float, seed: int = 0
) -> Load:
    """Poisson arrivals; time counts from when a request was due, so a server that stalls hides nothing.

    A request beyond the most in flight is not sent and counts as "not_sent".
    """
    load, running = Load(), set[asyncio.Task[None]]()
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    began = time.perf_counter() + 0.05

    async def one(number: int, due: float) -> None:
        answer = await wire.call(payloads[number])
        load.answers.append((number, answer, (time.perf_counter() - due) * 1e3))

    for turn, due in enumerate((began + np.cumsum(gaps)).tolist()):
        while (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(max(0.0, left - _SPIN_S))
        number = turn % len(payloads)
        if len(running) >= _MOST_IN_FLIGHT:
            load.answers.append((number, Answer("not_sent"), 0.0))
            continue
        task = asyncio.create_task(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - began
    return load
