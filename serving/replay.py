"""Score a captured request again from its own bytes, and compare."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import BrokenBundle
from contracts.features import assemble, item_inputs
from serving.bucketed import uses_buckets
from serving.capture_file import Capture, this_build
from serving.loaded import LoadedGeneration, open_generation
from serving.settings import ScorerSettings

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Replayed:
    """scores: (N,) float32; difference: the largest to those captured, inf where one is missing and the
    other is not; run_ms: of each repetition; differs: what of the build is not as it was captured."""

    scores: npt.NDArray[np.float32]
    difference: float
    identical: bool
    run_ms: list[float]
    differs: dict[str, tuple[Any, Any]]


def open_captured(
    capture: Capture, settings: ScorerSettings, kernels: Path | None = None, ranker_uri: str | None = None
) -> LoadedGeneration:
    """The generation that scored it; ranker_uri: where its bundle is now, None = where it was."""
    generation = capture.generation
    if ranker_uri is None:
        return open_generation(generation, settings, kernels)
    elsewhere = type(generation)(**{**vars(generation), "ranker_uri": ranker_uri})
    return open_generation(elsewhere, settings, kernels)


def replay_capture(
    capture: Capture,
    loaded: LoadedGeneration,
    settings: ScorerSettings,
    *,
    kernels: bool = False,
    repeat: int = 1,
) -> Replayed:
    """Raises BrokenBundle where this build reads other rows of the request than it captured."""
    assembled = assemble([capture.request], loaded.schema, capture.now_ms)
    if assembled.item_ids != capture.item_ids:
        raise BrokenBundle("the captured rows are not those that this build reads of the request")
    rows = capture.fetched
    run_ms = []
    for _ in range(repeat):
        inputs = item_inputs(rows.records, rows.found, rows.id_rows, rows.id_found, loaded.schema)
        began = time.perf_counter()
        scores = loaded.run(assembled, inputs)[0]
        run_ms.append((time.perf_counter() - began) * 1e3)
    known = np.concatenate([np.zeros(1, bool), rows.found | rows.id_found])
    scores = np.where(known[assembled.candidates[0]], scores, np.float32(np.nan))
    both = ~(np.isnan(scores) & np.isnan(capture.scores))
    apart = np.abs(scores[both].astype(np.float64) - capture.scores[both])
    now = this_build(settings.device, settings.threads, kernels, uses_buckets(settings))
    return Replayed(
        scores,
        float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)),
        scores.tobytes() == capture.scores.tobytes(),
        run_ms,
        {
            name: (capture.build.get(name), now.get(name))
            for name in sorted({*capture.build, *now})
            if capture.build.get(name) != now.get(name)
        },
    )
