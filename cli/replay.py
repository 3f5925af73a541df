"""`repcenter replay`: captured slow requests, scored again from their own bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.progress import stage
from contracts.errors import Conflict, InvalidInput, NotFound
from serving.capture import SUFFIX
from serving.capture_file import Capture, decode_capture
from serving.kernels import ranker_kernels
from serving.loaded import LoadedGeneration
from serving.replay import TOLERANCE, Replayed, open_captured, replay_capture
from serving.settings import ScorerSettings


def replay(
    path: Path, ranker: str | None, threads: int | None, repeat: int, var: Path, as_json: bool
) -> None:
    """Print how far each request's scores are from the captured ones; Conflict where one is beyond TOLERANCE.

    threads: None = as captured. A directory stands for all captures in it.
    """
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise NotFound("captured request", str(path))
    console, rows, bad = Console(stderr=True), [], 0
    opened: dict[tuple[str, int, bool, bool], tuple[LoadedGeneration, ScorerSettings, bool]] = {}
    with stage(console, f"Scoring {len(files)} captured requests again") as advance:
        for done, file in enumerate(files, 1):
            capture = read(file)
            build = capture.build
            of = (capture.generation.id, int(build["threads"]), bool(build["kernels"]), _in_buckets(capture))
            if of not in opened:
                opened[of] = _open(capture, ranker, threads, var)
            loaded, settings, kernels = opened[of]
            replayed = replay_capture(capture, loaded, settings, kernels=kernels, repeat=repeat)
            bad += not replayed.difference <= TOLERANCE
            rows.append(_row(file, capture, replayed))
            advance(done, len(files))
    if as_json:
        print(json.dumps(rows[0] if path.is_file() else rows))
    else:
        for row in rows:
            _print(row)
    if bad:
        raise Conflict(f"{bad} of {len(files)} requests score differently, by more than {TOLERANCE}")


def read(file: Path) -> Capture:
    """One captured request. InvalidInput names the file."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidInput("file", str(file), f"cannot be read: {error}") from error
    return decode_capture(data, file.name)


def _in_buckets(capture: Capture) -> bool:
    return bool(capture.build.get("shape_buckets", False))


def _open(
    capture: Capture, ranker: str | None, threads: int | None, var: Path
) -> tuple[LoadedGeneration, ScorerSettings, bool]:
    """The generation, opened with what it was captured with where this machine has it."""
    settings = ScorerSettings().model_copy(
        update={
            "device": capture.build["device"],
            "threads": threads or capture.build["threads"],
            "kernels": capture.build["kernels"],
            "shape_buckets": "on" if _in_buckets(capture) else "off",
        }
    )
    kernels = asyncio.run(ranker_kernels(settings, var))
    return open_captured(capture, settings, kernels, ranker), settings, kernels is not None


def _row(file: Path, capture: Capture, replayed: Replayed) -> dict[str, Any]:
    request = capture.request
    return {
        "file": file.name,
        "request_id": request.request_id,
        "scene": request.scene,
        "generation": capture.generation.id,
        "candidates": len(request.candidates),
        "behaviours": len(request.behaviours),
        "timings": vars(capture.timings),
        "run_ms": median(replayed.run_ms),
        "identical": replayed.identical,
        "difference": replayed.difference,
        "differs": replayed.differs,
        "scores": [None if s != s else s for s in replayed.scores.tolist()],
    }


def _print(row: Mapping[str, Any]) -> None:
    table = Table("", "captured", "again", title=row["file"])
    timings = row["timings"]
    table.add_row(
        "request", str(row["request_id"]), f"{row['candidates']} candidates, {row['behaviours']} behaviours"
    )
    table.add_row("generation", row["generation"], row["scene"])
    for name in ("queue_ms", "fetch_ms", "assemble_ms"):
        table.add_row(name.replace("_", " "), f"{timings[name]:.3f}", "")
    table.add_row("run ms", f"{timings['run_ms']:.3f}", f"{row['run_ms']:.3f}")
    table.add_row("total ms", f"{timings['total_ms']:.3f}", "")
    for name, (captured, now) in row["differs"].items():
        table.add_row(name, str(captured), str(now))
    said = "identical" if row["identical"] else f"differ by at most {row['difference']:.3g}"
    table.add_row("scores", "", said)
    Console().print(table)
