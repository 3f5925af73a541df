"""An answered request with all that its scores were made of: what the score log and the capture are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contracts.features import Assembled
from contracts.request import ScoreRequest
from contracts.scores import Scores
from param_server.store import Fetched
from serving.loaded import LoadedGeneration


@dataclass(frozen=True, eq=False)
class Scored:
    """request: with its id, and the user's stored behaviours where these were read; now_ms: the time that
    counted as now; fetched: the rows behind `assembled.item_ids`."""

    request: ScoreRequest
    now_ms: int
    loaded: LoadedGeneration
    assembled: Assembled
    fetched: Fetched
    scores: Scores


Observer = Callable[[Scored], None]
