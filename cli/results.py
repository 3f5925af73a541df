"""`repcenter results rankers`: the comparison with a bar, and its report."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from cli.progress import Advance, stage
from training.loop import StepReport
from training.recipes.ranker_results import Comparison, Watcher, compare_rankers, report_rankers
from training.results.runs import Run
from training.results.source import LoggedData

_COMMAND = "repcenter"


@dataclass(frozen=True, kw_only=True)
class ResultsOptions:
    """jobs: processes that share the plan; report: None writes none; arguments: of the command line."""

    data: Path
    image_tower: Path
    comparison: Comparison
    jobs: int
    report: Path | None
    arguments: Sequence[str]


def run_results(options: ResultsOptions) -> None:
    """Train what is missing, then write the report; with jobs, further processes share the plan."""
    console = Console()
    comparison = options.comparison
    others = [_worker(options.arguments) for _ in range(options.jobs - 1)]
    try:
        with stage(console, "Rankers") as advance:
            source = LoggedData(
                options.data,
                options.image_tower,
                comparison.directory.parent / "cache",
                comparison.settings,
                threads=comparison.threads,
                progress=partial(_show_stage, advance),
            )
            compare_rankers(comparison, source, _Shown(comparison.runs, advance))
            advance.note("waiting for the other jobs")
            failed = [code for code in (other.wait() for other in others) if code]
    finally:
        for other in others:
            if other.poll() is None:
                other.terminate()
                other.wait()
    if failed:
        raise SystemExit(failed[0])
    if options.report is not None:
        with stage(console, "Report") as advance:
            command = shlex.join([_COMMAND, *options.arguments])
            path, missing = report_rankers(comparison, source, options.report, command, advance)
        rest = f", {missing} runs not finished yet" if missing else ""
        console.print(f"  {path}{rest}", highlight=False)


def _show_stage(advance: Advance, what: str, done: int, total: int) -> None:
    advance.note(what)
    advance(done, total)


def _worker(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli.main", *arguments, "--jobs", "1", "--no-report"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


class _Shown(Watcher):
    """Progress over the whole plan in thousandths of a run; others' runs count when they are done."""

    def __init__(self, runs: Sequence[Run], advance: Advance) -> None:
        self._left = {run.name: 1.0 for run in runs}
        self._names = {run.name: run.variant.name for run in runs}
        self._seconds: dict[str, float] = {}  # by variant, of the latest run
        self._advance = advance
        self._began = 0.0

    def step(self, run: Run, report: StepReport) -> None:
        if report.step == 1 or not self._began:
            self._began = time.monotonic()
        share = report.step / report.steps
        self._left[run.name] = 1 - share
        spent = time.monotonic() - self._began
        if share > 0.05:
            self._seconds[run.variant.name] = spent / share
        self._show(f"{run.name} {report.rows_per_s:,.0f} rows/s, ")

    def done(self, run: Run, seconds: float) -> None:
        self._left[run.name] = 0.0
        self._seconds[run.variant.name] = seconds
        self._began = 0.0
        self._show("")

    def _show(self, what: str) -> None:
        count = len(self._left)
        done = count - sum(self._left.values())
        self._advance.note(f"{what}{self._minutes_left()}")
        self._advance(int(1000 * done), 1000 * count)

    def _minutes_left(self) -> str:
        """By each variant's own latest time, the mean of the others' where there is none."""
        if not self._seconds:
            return ""
        mean = sum(self._seconds.values()) / len(self._seconds)
        left = sum(
            share * self._seconds.get(self._names[name], mean) for name, share in self._left.items() if share
        )
        return f"about {left / 60:,.0f} min left of one job"
