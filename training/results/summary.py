"""Finished runs -> what a report says: means over seeds and draws, gains with their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation import GROUPS, METRICS
from training.results.bootstrap import Doubles, Users, bootstrap
from training.results.files import read_arrays
from training.results.log import Rows
from training.results.runs import PREDICTIONS, Run, Settings, finished
from training.results.variants import NO_VECTORS, NOTHING, VARIANTS, Variant

BOOTSTRAP_DRAWS = 1_000
_SURE = 2.0  # standard errors
_INTERVAL = (2.5, 97.5)

Place = tuple[int, int]  # seed, draw
Drawn = dict[str, dict[str, Doubles]]  # group -> metric -> (1 + draws,)


@dataclass(frozen=True)
class Figure:
    """Over R runs. sd: between runs, 0 with one of them."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Gain:
    """A variant minus another, over the runs that both have: the same seeds, draws and users.

    low, high: 95 % over bootstrapped users; error: standard error of the mean, of users and of runs together;
    positive: runs in which the difference is above 0.
    """

    mean: float
    low: float
    high: float
    error: float
    positive: int
    runs: int

    @property
    def verdict(self) -> int:
        """1 surely above 0, -1 surely below, 0 not known: two standard errors."""
        return int(np.sign(self.mean)) if abs(self.mean) > _SURE * self.error else 0


@dataclass(frozen=True, eq=False)
class Line:
    """One variant. figures, over_nothing, over_against: by group, then metric; gains are empty for the
    reference itself; by_draw: AUC by draw, then group."""

    variant: Variant
    runs: int
    vectors: str
    parameters: int
    rows_per_s: float
    figures: Mapping[str, Mapping[str, Figure]]
    over_nothing: Mapping[str, Mapping[str, Gain]]
    over_against: Mapping[str, Mapping[str, Gain]]
    by_draw: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Summary:
    """lines: in the ladder's order; missing: names of planned runs that are not finished."""

    lines: Sequence[Line]
    settings: Settings
    seeds: int
    draws: int
    users: int
    rows: int
    new_rows: Mapping[int, int]  # by draw
    new_items: Mapping[int, int]
    train_rows: int
    missing: Sequence[str]
    # of the vectors that rankers read, by draw: more than one where they were made anew in between
    spaces: Mapping[str, Sequence[str]]

    def line(self, name: str) -> Line | None:
        return next((line for line in self.lines if line.variant.name == name), None)


def summarise(
    directory: Path,
    runs: Sequence[Run],
    settings: Settings,
    rows: Rows,
    new: Mapping[int, npt.NDArray[np.bool_]],
    *,
    draws: int = BOOTSTRAP_DRAWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """rows: that all runs are measured on; new: by draw (I,) bool. InvalidInput where a run's rows differ."""
    users = Users.drawn(rows.users, draws, seed=0)
    groups = {draw: _groups(fresh[rows.items]) for draw, fresh in new.items()}
    results: dict[str, dict[Place, dict[str, Any]]] = {}
    drawn: dict[str, dict[Place, Drawn]] = {}
    missing = []
    for number, run in enumerate(runs):
        progress(number, len(runs))
        result = finished(directory, run, settings)
        if result is None:
            missing.append(run.name)
            continue
        rows.check(str(result["rows"]), run.name)
        logits = read_arrays(directory / run.name / PREDICTIONS)["logits"]
        place = (run.seed, run.draw)
        results.setdefault(run.variant.name, {})[place] = result
        drawn.setdefault(run.variant.name, {})[place] = {
            group: bootstrap(rows.labels, logits, rows.requests, users, inside)
            for group, inside in groups[run.draw].items()
        }
    progress(len(runs), len(runs))
    lines = [_line(VARIANTS[name], results[name], drawn) for name in VARIANTS if name in results]
    first = next(iter(results.values())) if results else {}
    return Summary(
        lines=lines,
        settings=settings,
        seeds=len({run.seed for run in runs}),
        draws=len({run.draw for run in runs}),
        users=users.multiplicity.shape[1],
        rows=len(rows.labels),
        new_rows={draw: int(inside["new"].sum()) for draw, inside in groups.items()},
        new_items={draw: int(fresh.sum()) for draw, fresh in new.items()},
        train_rows=max((int(result["train_rows"]) for result in first.values()), default=0),
        missing=missing,
        spaces=_spaces(results),
    )


def _spaces(results: Mapping[str, Mapping[Place, dict[str, Any]]]) -> dict[str, list[str]]:
    out: dict[str, set[str]] = {}
    for name, places in results.items():
        for (_, draw), result in places.items():
            if result["vectors"] == NO_VECTORS:
                continue
            who = f"draw {draw}" + (", oracle" if VARIANTS[name].warm else "")
            out.setdefault(who, set()).add(str(result["space"]))
    return {who: sorted(ids) for who, ids in sorted(out.items())}


def _groups(fresh: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.bool_]]:
    return dict(zip(GROUPS, (np.ones_like(fresh), ~fresh, fresh), strict=True))


def _line(
    variant: Variant, results: Mapping[Place, dict[str, Any]], drawn: Mapping[str, Mapping[Place, Drawn]]
) -> Line:
    own = drawn[variant.name]
    some = next(iter(results.values()))
    places = sorted(results)
    return Line(
        variant=variant,
        runs=len(places),
        vectors=some["vectors"],
        parameters=some["parameters"],
        rows_per_s=float(np.median([results[p]["log"]["rows_per_s"] for p in places])),
        figures={
            group: {m: _figure([own[p][group][m][0] for p in places]) for m in METRICS} for group in GROUPS
        },
        over_nothing=_gains(own, drawn.get(NOTHING, {}) if variant.name != NOTHING else {}),
        over_against=_gains(own, drawn.get(variant.against, {}) if variant.name != variant.against else {}),
        by_draw={
            draw: {
                group: float(np.mean([own[p][group]["auc"][0] for p in places if p[1] == draw]))
                for group in GROUPS
            }
            for draw in sorted({draw for _, draw in places})
        },
    )


def _figure(values: Sequence[float]) -> Figure:
    return Figure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def _gains(own: Mapping[Place, Drawn], other: Mapping[Place, Drawn]) -> dict[str, dict[str, Gain]]:
    shared = sorted(own.keys() & other.keys())
    if not shared:
        return {}
    return {
        group: {
            metric: _gain(np.stack([own[p][group][metric] - other[p][group][metric] for p in shared]))
            for metric in METRICS
        }
        for group in GROUPS
    }


def _gain(differences: Doubles) -> Gain:
    """differences: (runs, 1 + draws), first that of all users once."""
    runs = len(differences)
    each, drawn = differences[:, 0], differences[:, 1:].mean(axis=0)
    between = each.var(ddof=1) / runs if runs > 1 else 0.0
    low, high = np.nanpercentile(drawn, _INTERVAL)
    return Gain(
        mean=float(each.mean()),
        low=float(low),
        high=float(high),
        error=float(np.sqrt(np.nanvar(drawn) + between)),
        positive=int((each > 0).sum()),
        runs=runs,
    )
