"""docs/results/rankers.md, whole, from a summary."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from training.results.plots import GAINS, SCATTER, draw_plots
from training.results.statements import aim, cautions, earnings, interval
from training.results.summary import Line, Summary

NAME = "rankers.md"


def write_report(summary: Summary, directory: Path, command: str) -> Path:
    """NAME and its pictures in `directory`. command: by which the figures can be had again."""
    directory.mkdir(parents=True, exist_ok=True)
    draw_plots(summary, directory)
    path = directory / NAME
    path.write_text(markdown(summary, command, str(datetime.date.today()), machine()))
    return path


def markdown(summary: Summary, command: str, date: str, where: str) -> str:
    settings = summary.settings
    parts = [
        "# Rankers on MovieLens-1M likes: what each module earns on new items",
        "This page is written by the command below, figures and sentences alike. Do not edit it.",
        "\n".join(
            [
                f"* {date}, `{command}`",
                f"* {where}",
                f"* {summary.train_rows:,} train rows x {settings.epochs} epochs a run, learning rate "
                f"{settings.learning_rate:g} with linear decay, {settings.batch_rows} rows a step, ID "
                f"dropout {settings.id_dropout:g}, the step with the best validation AUC is kept",
                f"* {summary.seeds} seeds x {summary.draws} draws of new items; "
                f"{settings.new_share:.0%} of the items, {_list(summary.new_items)}",
                f"* measured on {summary.rows:,} rows of {summary.users:,} users, of which "
                f"{_list(summary.new_rows)} show new items, with the int8 ID rows that serve",
            ]
        ),
        *(f"> {text}" for text in cautions(summary)),
        "## The aim",
        *aim(summary),
        "## What each module earns",
        "A module earns or costs where the mean difference exceeds two standard errors, of test users and of "
        "runs together. Brackets: 95 % over 1,000 user-paired bootstrap draws.",
        "\n".join(f"* {sentence}" for sentence in earnings(summary)),
        f"![Gain on new items]({GAINS})",
        f"![All against new]({SCATTER})",
        "## AUC",
        "Mean ± standard deviation over runs. Vectors: `loo` leave-one-out, `text`, `image`, `fused` the "
        "encoder's head after C-SFT. No vector is fitted on a like of a new item.",
        _auc_table(summary),
        "## Gain over DIN + position + attributes",
        _gain_table(summary),
        "## GAUC and logloss",
        *(_metric_table(summary, group) for group in ("all", "warm", "new")),
        "## Protocol",
        "\n".join(
            [
                "* A request is one film that the user liked and two popular ones that the user never rated; "
                "the split is by time. New items are drawn by seed; only the test split shows them.",
                "* In training a new item has no ID row, no vocabulary and no vector is fitted on it. As a "
                "past behaviour it keeps its content, as an item that the worker encoded a second ago would.",
                "* An oracle trains the same items as all others and is measured on the same rows: what is "
                "left to gain.",
                "* Choices were made on the validation split with other draws (`--tuning`); negative results "
                "are in [notes.md](notes.md).",
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """The processor and its cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _list(by_draw: object) -> str:
    assert isinstance(by_draw, dict)
    return " and ".join(f"{count:,} (draw {draw})" for draw, count in by_draw.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _rows(summary: Summary, cells: Callable[[Line], Sequence[str]]) -> list[list[str]]:
    return [[line.variant.title, *cells(line)] for line in summary.lines]


def _auc_table(summary: Summary) -> str:
    def cells(line: Line) -> list[str]:
        figures = [line.figures[group]["auc"] for group in ("all", "warm", "new")]
        shown = [f"{f.mean:.4f} ± {f.sd:.4f}" for f in figures]
        return [line.vectors, *shown, str(line.runs), f"{line.parameters:,}", f"{line.rows_per_s:,.0f}"]

    head = ("ranker", "vectors", "all", "warm", "new", "runs", "dense parameters", "train rows/s")
    return _table(head, _rows(summary, cells))


def _gain_table(summary: Summary) -> str:
    lines = [line for line in summary.lines if line.over_nothing]
    rows = [
        [
            line.variant.title,
            *(interval(line.over_nothing[group]["auc"]) for group in ("all", "warm", "new")),
            interval(line.over_nothing["new"]["gauc_user"]),
        ]
        for line in lines
    ]
    return _table(("ranker", "AUC all", "AUC warm", "AUC new", "user GAUC new"), rows)


def _metric_table(summary: Summary, group: str) -> str:
    def cells(line: Line) -> list[str]:
        figures = [line.figures[group][metric] for metric in ("gauc_user", "gauc_request", "logloss")]
        return [f"{f.mean:.4f} ± {f.sd:.4f}" for f in figures]

    return _table((f"{group} items", "user GAUC", "request GAUC", "logloss"), _rows(summary, cells))
