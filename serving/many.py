"""Several score requests in one call: each is scored for itself, and its error is its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import RepcenterError, TooLarge
from contracts.request import ScoreRequest
from contracts.scores import Scores
from serving.metrics import Door, Metrics
from serving.scorer import Scorer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """One request of many, as `Scorer.score` takes it."""

    request: ScoreRequest
    deadline_s: float | None
    generation: str | None


async def score_many(
    scorer: Scorer, metrics: Metrics, door: Door, asked: Sequence[Asked | RepcenterError]
) -> list[Scores | RepcenterError]:
    """What became of each, in order; an error that was asked is answered. Raises TooLarge."""
    if len(asked) > scorer.limits.requests:
        raise TooLarge("requests", len(asked), scorer.limits.requests, "requests")
    return await asyncio.gather(*(_one(scorer, metrics, door, one) for one in asked))


async def _one(
    scorer: Scorer, metrics: Metrics, door: Door, asked: Asked | RepcenterError
) -> Scores | RepcenterError:
    began = time.perf_counter()
    outcome = "internal"
    try:
        if isinstance(asked, RepcenterError):
            raise asked
        scores = await scorer.score(asked.request, asked.deadline_s, asked.generation)
        outcome = "ok"
        return scores
    except RepcenterError as error:
        outcome = error.code
        if outcome == "internal":
            log.error("one of many: %s", error)
        return error
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except Exception:
        log.exception("one of many failed")  # its neighbours have their answers
        return RepcenterError("the scorer's log says more")
    finally:
        metrics.request(door, outcome, time.perf_counter() - began)
