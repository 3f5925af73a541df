"""The answer to a score request: what the scorer computes, both doors translate and the client gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.explanation import Explanation

# The numbers are those of repcenter.v1.CandidateStatus.
OK, COLD, MISSING, DEFAULT, ENCODED = 1, 2, 3, 4, 5
COMPUTED = (OK, COLD, ENCODED)  # whose score the graph gave
STATUS_NAMES = ("unspecified", "ok", "cold", "missing", "default", "encoded")
Source = Literal["request", "stored"]
_NAMES = np.array(STATUS_NAMES, dtype=object)


@dataclass(frozen=True)
class Completeness:
    """How much of a request the tables knew, and how much of what the ranker reads the request told.

    An item is found when it has a record or an ID row. behaviours_asked counts the newest behaviours that the
    ranker reads, not those beyond its history; behaviours_source says whether the request gave them or they
    are the stored ones of the user it names. columns_asked counts the ranker's columns of users and contexts,
    columns_found those of them that the request gave. stale: the tables did not answer and the
    scores come from cached rows of any age; what was not cached then counts as not found. encoded: items,
    candidates and behaviours, that were encoded from the content that the request brought, found or not
    by their ID rows; encode_failed: those that could not be.
    """

    behaviours_asked: int
    behaviours_found: int
    candidates_asked: int
    candidates_found: int
    columns_asked: int = 0
    columns_found: int = 0
    behaviours_source: Source = "request"
    stale: bool = False
    encoded: int = 0
    encode_failed: int = 0


@dataclass(frozen=True)
class Timings:
    """Milliseconds per stage. queue: waiting for a free worker; total: from admission to the answer; encode:
    what the request brought, 0 where no encoder was asked."""

    queue_ms: float
    fetch_ms: float
    assemble_ms: float
    run_ms: float
    total_ms: float
    encode_ms: float = 0.0


@dataclass(frozen=True)
class Scores:
    """scores: (N,) float32 click probabilities in candidate order, NaN where missing.

    statuses: (N,) uint8 of OK (content record found), COLD (ID row alone), MISSING (neither), DEFAULT
    (neither: the score is the one that the request gave for such items) and ENCODED (no content record:
    scored with the content that the request brought).
    request_id: the request's own, or the one that the scorer gave it. explanations: of the best candidates,
    best first; None where none were asked for.
    """

    scene: str
    generation: str
    scores: npt.NDArray[np.float32]
    statuses: npt.NDArray[np.uint8]
    completeness: Completeness
    timings: Timings
    request_id: str = ""
    explanations: tuple[Explanation, ...] | None = None

    def status_names(self) -> list[str]:
        """The statuses in words, in candidate order."""
        names: list[str] = _NAMES[self.statuses].tolist()
        return names

    def top(self, count: int) -> list[int]:
        """Positions of the best `count` scored candidates, best first; equal scores keep their order."""
        order = np.argsort(-self.scores, kind="stable")  # NaN comes last
        scored = int(np.count_nonzero(~np.isnan(self.scores)))
        best: list[int] = order[: min(count, scored)].tolist()
        return best
