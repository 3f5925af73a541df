"""The newest requests of each scene, cut to size: what a new generation is tried on before it serves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from contracts.request import ScoreRequest

MOST_CANDIDATES = 200


@dataclass(frozen=True)
class Recorded:
    """A request as it was scored: with its behaviours, wherever they came from. now_ms: the time it had."""

    request: ScoreRequest
    now_ms: int


class RecordedRequests:
    """Rings in memory; nothing is written anywhere."""

    def __init__(self, scenes: Sequence[str], most: int) -> None:
        """most: requests kept of each scene; 0 keeps none."""
        self._rings: dict[str, deque[Recorded]] = {scene: deque(maxlen=most) for scene in scenes}

    def add(self, request: ScoreRequest, history: int, now_ms: int) -> None:
        """history: behaviours that the ranker reads; the newest so many are kept. The scene must be known."""
        ring = self._rings[request.scene]
        if not ring.maxlen:
            return
        if len(request.candidates) > MOST_CANDIDATES or len(request.behaviours) > history:
            request = replace(
                request,
                candidates=request.candidates[:MOST_CANDIDATES],
                behaviours=request.behaviours[-history:],
            )
        ring.append(Recorded(request, now_ms))

    def of(self, scene: str) -> list[Recorded]:
        """Oldest first."""
        return list(self._rings.get(scene, ()))
