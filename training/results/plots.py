"""The report's two pictures. matplotlib is imported here alone, when a picture is drawn."""

from __future__ import annotations

from pathlib import Path

from training.results.statements import AIM_ALL, AIM_NEW
from training.results.summary import Summary
from training.results.variants import NOTHING

GAINS, SCATTER = "rankers_new.svg", "rankers_all_new.svg"
_BLUE, _GREY, _ORANGE = "#2c6fad", "#777777", "#c8641e"


def draw_plots(summary: Summary, directory: Path) -> list[Path]:
    """GAINS and SCATTER in `directory`; equal summaries give equal files."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context({"svg.hashsalt": "rankers", "font.size": 9, "svg.fonttype": "path"}):
        return [_gains(summary, directory / GAINS), _scatter(summary, directory / SCATTER)]


def _gains(summary: Summary, path: Path) -> Path:
    """AUC on new items minus that of DIN + position + attributes, with its interval over users."""
    from matplotlib import pyplot

    lines = [line for line in summary.lines if line.over_nothing][::-1]
    figure, axes = pyplot.subplots(figsize=(7.0, 1.2 + 0.34 * len(lines)))
    for place, line in enumerate(lines):
        gain = line.over_nothing["new"]["auc"]
        errors = [[max(0.0, gain.mean - gain.low)], [max(0.0, gain.high - gain.mean)]]
        colour = _ORANGE if line.variant.warm else _BLUE
        axes.errorbar([gain.mean], [place], xerr=errors, fmt="o", color=colour, capsize=3, markersize=4)
    axes.axvline(0, color=_GREY, linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line.variant.title for line in lines])
    axes.set_xlabel("AUC on new items, minus DIN + position + attributes (95 % over test users)")
    return _save(figure, path)


def _scatter(summary: Summary, path: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.0, 5.0))
    for line in summary.lines:
        x, y = (line.figures[group]["auc"] for group in ("all", "new"))
        colour = _ORANGE if line.variant.warm else _GREY if line.variant.name == NOTHING else _BLUE
        axes.errorbar(
            [x.mean], [y.mean], xerr=[x.sd], yerr=[y.sd], fmt="o", color=colour, markersize=4, elinewidth=0.6
        )
        axes.annotate(
            line.variant.title, (x.mean, y.mean), xytext=(5, 4), textcoords="offset points", fontsize=7
        )
    axes.axvline(AIM_ALL, color=_GREY, linewidth=0.8, linestyle=":")
    axes.axhline(AIM_NEW, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("AUC on all items (mean and sd of runs; dotted: the aim)")
    axes.set_ylabel("AUC on new items")
    axes.margins(0.12)
    return _save(figure, path)


def _save(figure: object, path: Path) -> Path:
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
