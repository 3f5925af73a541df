"""Drift: how far a generation's scores are from those of the one that serves, on requests just made.

Each generation reads its own rows, so a new encoder, a new ranker and a half-filled table all show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contracts.errors import GateFailed
from contracts.features import assemble, item_inputs
from param_server.cache import RowCache
from param_server.store import Store
from serving.loaded import LoadedGeneration
from serving.recorded import Recorded

_FEWEST = 3  # scored candidates, below which an order says nothing

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DriftLimits:
    """None: measured, but held to nothing. logit: most mean absolute difference; rank: least correlation;
    lost: largest share of scored candidates that would have no score any more."""

    logit: float | None
    rank: float | None
    lost: float | None


@dataclass(frozen=True)
class Drift:
    """requests: looked at; logit: mean |difference| over candidates that both score; rank: mean Spearman
    correlation over requests; lost: share of the serving one's scored candidates that the new one lacks.
    NaN where nothing could be compared."""

    requests: int
    logit: float
    rank: float
    lost: float

    def refuse(self, limits: DriftLimits) -> None:
        """GateFailed where one of the measures is beyond its limit; what could not be measured passes."""
        for name, value, limit, beyond in (
            ("logit drift", self.logit, limits.logit, limits.logit is not None and self.logit > limits.logit),
            ("rank drift", self.rank, limits.rank, limits.rank is not None and self.rank < limits.rank),
            ("lost candidates", self.lost, limits.lost, limits.lost is not None and self.lost > limits.lost),
        ):
            if beyond:
                raise GateFailed(name, value, limit, f"on {self.requests} recorded requests")


async def measure_drift(
    rows: Store | RowCache,
    serving: LoadedGeneration,
    candidate: LoadedGeneration,
    recorded: Sequence[Recorded],
) -> Drift:
    """Score recorded requests with both, one after the other, off the event loop. Raises Unavailable.

    Where they read different spaces, requests are scored without what was searched for.
    """
    differences: list[Logits] = []
    correlations: list[float] = []
    scored = lost = 0
    if (
        serving.space.id != candidate.space.id
    ):  # a query's vectors are of one space, and mean nothing in another
        recorded = [replace(one, request=replace(one.request, query={})) for one in recorded]
    for one in recorded:
        old, new = await _logits(rows, serving, one), await _logits(rows, candidate, one)
        known = ~np.isnan(old)
        both = known & ~np.isnan(new)
        scored += int(np.count_nonzero(known))
        lost += int(np.count_nonzero(known & ~both))
        differences.append(np.abs(old[both] - new[both]))
        if np.count_nonzero(both) >= _FEWEST:
            correlations.append(spearman(old[both], new[both]))
    flat = np.concatenate(differences) if differences else np.zeros(0)
    return Drift(
        len(recorded),
        float(flat.mean()) if len(flat) else float("nan"),
        float(np.mean(correlations)) if correlations else float("nan"),
        lost / scored if scored else float("nan"),
    )


async def _logits(rows: Store | RowCache, loaded: LoadedGeneration, one: Recorded) -> Logits:
    """(N,) float64, NaN where neither record nor ID row is there."""
    assembled = assemble([one.request], loaded.schema, one.now_ms)
    fetched = await rows.fetch(loaded.space, loaded.id_table, assembled.item_ids)

    def run() -> Logits:
        inputs = item_inputs(fetched.records, fetched.found, fetched.id_rows, fetched.id_found, loaded.schema)
        scores = loaded.run(assembled, inputs)[0].astype(np.float64)
        known = np.concatenate([np.zeros(1, np.bool_), fetched.found | fetched.id_found])
        inside = np.clip(scores, 1e-7, 1 - 1e-7)
        logits: Logits = np.log(inside) - np.log1p(-inside)
        return np.where(known[assembled.candidates[0]], logits, np.nan)

    return await asyncio.to_thread(run)


def spearman(a: Logits, b: Logits) -> float:
    """Rank correlation of two score lists; equal values share a rank. 1 where neither orders anything, 0
    where only one does."""
    first, second = _ranks(a), _ranks(b)
    spread = first.std() * second.std()
    if spread == 0:
        return float(first.std() == second.std())
    product = float(((first - first.mean()) * (second - second.mean())).mean() / spread)
    return min(1.0, max(-1.0, product))


def _ranks(values: Logits) -> Logits:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Logits = (ends - (counts - 1) / 2)[inverse]
    return ranks
