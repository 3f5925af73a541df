"""The comparison of rankers on a real log, resumable run by run: what each module earns, and on what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from contracts.errors import NotFound
from training.loop import StepReport
from training.results.files import locked
from training.results.report import write_report
from training.results.runs import LOCK, Run, Settings, finished, plan
from training.results.source import Source
from training.results.summary import BOOTSTRAP_DRAWS, summarise
from training.results.train import train_run
from training.results.variants import variants


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """variants: names, none = all; directory: of the runs, shared by processes; threads: of a training."""

    directory: Path
    variants: Sequence[str] = ()
    seeds: int = 3
    draws: int = 2
    settings: Settings = field(default_factory=Settings)
    threads: int = 1

    @property
    def runs(self) -> list[Run]:
        return plan(variants(self.variants), self.seeds, self.draws)


class Watcher:
    """Shows nothing; the command's shows a bar. Called in the order of the work."""

    def step(self, run: Run, report: StepReport) -> None:
        """A step of a run."""

    def done(self, run: Run, seconds: float) -> None:
        """A run is finished, now or before, here or by another process."""


def compare_rankers(comparison: Comparison, source: Source, watcher: Watcher | None = None) -> bool:
    """Train every run that nobody has finished or is training; True where all of the plan are finished then.

    Processes that share `directory` share the work: each run is trained by the one that holds its lock.
    Raises Conflict where a finished run was made with other settings.
    """
    watcher = watcher or Watcher()
    everything = [_train(run, comparison, source, watcher) for run in comparison.runs]
    return all(everything)


def _train(run: Run, comparison: Comparison, source: Source, watcher: Watcher) -> bool:
    """Whether the run is finished; False where another process is at it."""
    directory = comparison.directory / run.name
    result = finished(comparison.directory, run, comparison.settings)
    if result is None:
        with locked(directory / LOCK, wait=False) as mine:
            result = finished(comparison.directory, run, comparison.settings)
            if mine and result is None:
                result = train_run(
                    run,
                    source.prepared(run.draw, warm=run.variant.warm),
                    comparison.settings,
                    directory,
                    threads=comparison.threads,
                    on_step=partial(watcher.step, run),
                )
    if result is None:
        return False
    watcher.done(run, float(result["seconds"]))
    return True


def report_rankers(
    comparison: Comparison,
    source: Source,
    directory: Path,
    command: str,
    progress: Callable[[int, int], None],
    *,
    bootstrap_draws: int = BOOTSTRAP_DRAWS,
) -> tuple[Path, int]:
    """Write the report of the finished runs of the plan in `directory`: its path, runs that are missing.

    Raises NotFound where no run is finished.
    """
    if not any(finished(comparison.directory, run, comparison.settings) for run in comparison.runs):
        raise NotFound("finished run", str(comparison.directory))
    new = {draw: source.new(draw) for draw in range(comparison.draws)}
    summary = summarise(
        comparison.directory,
        comparison.runs,
        comparison.settings,
        source.rows(),
        new,
        draws=bootstrap_draws,
        progress=progress,
    )
    return write_report(summary, directory, command), len(summary.missing)
