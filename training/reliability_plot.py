"""The reliability plot: predicted against observed, before and after calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.reliability import BeforeAfter, Curve

_BEFORE, _AFTER, _RIGHT = "#b0562c", "#1f6f8b", "#888888"
_FLOOR = 1e-5  # of both logarithmic axes


def write_reliability(both: BeforeAfter, title: str, path: Path) -> None:
    """Write one figure, its kind by the suffix (.svg, .png); the same figures give the same bytes.

    Both axes are logarithmic: click rates are small, and a factor of two is a factor of two anywhere. A point
    is a bin of equal count; one without an event sits on the lower edge.
    """
    import matplotlib as mpl  # heavy, and only training draws
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with mpl.rc_context({"svg.hashsalt": "repcenter", "font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(5.0, 5.0), layout="constrained")
        axes = figure.subplots()
        least = max(_FLOOR, min(_smallest(r.curve) for r in both) / 1.5)
        axes.plot((least, 1), (least, 1), color=_RIGHT, linewidth=1, linestyle="--", label="exact")
        for name, colour, marker, r in (
            ("before", _BEFORE, "s", both.before),
            ("after", _AFTER, "o", both.after),
        ):
            ece = "–" if r.ece is None else f"{r.ece:.4f}"
            ratio = "–" if r.ratio is None else f"{r.ratio:.3f}"
            axes.plot(
                np.maximum(r.curve.predicted, least),
                np.maximum(r.curve.observed, least),
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=1,
                label=f"{name}: ECE {ece}, predicted / observed {ratio}",
            )
        axes.set(title=title, xlabel="predicted", ylabel="observed", xscale="log", yscale="log")
        axes.set(xlim=(least, 1), ylim=(least, 1), aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", frameon=False)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=120, metadata=metadata)


def _smallest(curve: Curve) -> float:
    """The smallest mean above 0, 1 where there is none."""
    means = np.concatenate([curve.predicted, curve.observed])
    return float(means[means > 0].min(initial=1.0))
