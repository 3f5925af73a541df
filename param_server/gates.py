"""What is asked of a generation before a scene serves it: coverage of the catalogue, golden replay.

A gate that cannot measure has failed; only a server that is gone is an error.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

from contracts.bundle import open_bundle
from contracts.errors import BrokenBundle, RepcenterError, Unavailable
from contracts.manifest import Generation
from contracts.onnx_model import OnnxModel, replay
from contracts.ranker_spec import ranker_spec_from_json
from param_server.activation_log import GateResult
from param_server.coverage import coverage, file_catalogue, live_catalogue
from param_server.server import Server
from param_server.settings import GenerationSettings

Progress = Callable[[int, int], None]


async def run_gates(
    redis: Server,
    generation: Generation,
    serving: Generation | None,
    settings: GenerationSettings,
    *,
    catalogue: Path | None = None,
    progress: Progress | None = None,
) -> tuple[GateResult, ...]:
    """Every gate's result. serving: what the scene serves now; catalogue: a Parquet file of the items that
    must be covered, None = what lives in the space that the scene serves now. Raises Unavailable."""
    golden = await golden_replay(generation, settings.golden_tolerance)
    return (golden, *await _coverage(redis, generation, serving, settings, catalogue, progress))


async def golden_replay(generation: Generation, tolerance: float | None) -> GateResult:
    """The ranker's golden inputs through its graph, in this machine's runtime. None = the bundle's own."""
    name = "golden replay"
    try:
        worst, allowed, count = await asyncio.to_thread(_replay, generation)
    except Unavailable:
        raise
    except RepcenterError as error:
        return GateResult(name, False, None, tolerance, str(error))
    limit = allowed if tolerance is None else tolerance
    return GateResult(name, worst <= limit, worst, limit, f"largest difference of {count} golden outputs")


def _replay(generation: Generation) -> tuple[float, float, int]:
    """The largest difference, the bundle's tolerance, how many arrays were compared. Blocking."""
    bundle = open_bundle(generation.ranker_uri, generation.ranker_digest)
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    golden = bundle.golden()
    if len(golden) != 1:
        raise BrokenBundle(
            f"bundle {bundle.digest[:12]}: golden inputs of {sorted(golden)}, expected one graph"
        )
    ((graph, (_, outputs)),) = golden.items()
    worst = replay(bundle, {graph: OnnxModel(bundle.file(spec.graph))}, math.inf)
    return worst, spec.tolerance, len(outputs)


async def _coverage(
    redis: Server,
    generation: Generation,
    serving: Generation | None,
    settings: GenerationSettings,
    catalogue: Path | None,
    progress: Progress | None,
) -> tuple[GateResult, GateResult]:
    names = ("coverage", "ID row coverage")
    limits = (settings.min_coverage, settings.min_id_coverage)
    if catalogue is None and serving is None:
        detail = "nothing to compare with: the scene serves nothing yet, and no catalogue is given"
        first, second = (GateResult(name, True, None, None, detail) for name in names)
        return first, second
    try:
        if catalogue is not None:
            items = await file_catalogue(catalogue)
        else:
            assert serving is not None
            items = await live_catalogue(redis, serving.space, settings.coverage_sample or None)
        (found,) = await coverage(redis, [generation], items, progress)
    except Unavailable:
        raise
    except RepcenterError as error:
        first, second = (
            GateResult(name, False, None, limit, str(error))
            for name, limit in zip(names, limits, strict=True)
        )
        return first, second
    shares = (found.content_share, found.id_row_share)
    counts = (found.content, found.id_rows)
    first, second = (
        GateResult(name, share >= limit, share, limit, f"{count:,} of {found.items:,} {items.name}")
        for name, share, limit, count in zip(names, shares, limits, counts, strict=True)
    )
    return first, second
