"""What each generation in use answers, to compare a canary with what serves. At most two per scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from contracts.scores import COMPUTED, STATUS_NAMES, Scores

_LABELS = ["scene", "generation"]
_RESULTS = tuple(enumerate(STATUS_NAMES))[1:]


class GenerationMetrics:
    """Registered once; `of` begins the series of one generation in one scene."""

    def __init__(self, registry: CollectorRegistry, buckets_s: Sequence[float]) -> None:
        self.duration = Histogram(
            "repcenter_generation_duration_seconds",
            "Answered score requests by generation.",
            _LABELS,
            registry=registry,
            buckets=buckets_s,
        )
        self.candidates = Counter(
            "repcenter_generation_candidates",
            "Candidates by generation and result: ok, cold, missing, default, encoded.",
            [*_LABELS, "result"],
            registry=registry,
        )
        self.scores = Counter(
            "repcenter_generation_score_sum",
            "Sum of scores by generation; over the candidates that have one it is the mean click rate told.",
            _LABELS,
            registry=registry,
        )

    def of(self, scene: str, generation: str) -> OneGeneration:
        return OneGeneration(self, scene, generation)


class OneGeneration:
    """The series of one generation in one scene, until `remove`."""

    def __init__(self, metrics: GenerationMetrics, scene: str, generation: str) -> None:
        self._metrics, self._labels = metrics, (scene, generation)
        self._duration = metrics.duration.labels(*self._labels)
        self._candidates = [metrics.candidates.labels(*self._labels, name) for _, name in _RESULTS]
        self._scores = metrics.scores.labels(*self._labels)

    def scored(self, answers: Sequence[Scores]) -> None:
        """At least one."""
        for scores in answers:
            self._duration.observe(scores.timings.total_ms / 1e3)
        statuses = np.concatenate([scores.statuses for scores in answers])
        counts = np.bincount(statuses, minlength=len(STATUS_NAMES))
        for series, (status, _) in zip(self._candidates, _RESULTS, strict=True):
            series.inc(int(counts[status]))
        told = np.concatenate([scores.scores for scores in answers])
        self._scores.inc(float(told[np.isin(statuses, COMPUTED)].sum(dtype=np.float64)))

    def remove(self) -> None:
        self._metrics.duration.remove(*self._labels)
        self._metrics.scores.remove(*self._labels)
        for _, name in _RESULTS:
            self._metrics.candidates.remove(*self._labels, name)
