"""What the figures say in sentences, by rule: no result is written down here."""

from __future__ import annotations

from collections.abc import Sequence

from training.results.summary import Gain, Line, Summary
from training.results.variants import BEST, NOTHING, VARIANTS

AIM_ALL, AIM_NEW = 0.82, 0.77


def earnings(summary: Summary) -> list[str]:
    """One sentence per variant that is compared with another, in the ladder's order."""
    return [_earning(line) for line in summary.lines if line.over_against]


def _earning(line: Line) -> str:
    new, whole = (line.over_against[group]["auc"] for group in ("new", "all"))
    reference = VARIANTS[line.variant.against].title
    return (
        f"**{line.variant.title}** (against {reference}) {_verdict(new)} on new items, "
        f"{_verdict(whole)} on all."
    )


def _verdict(gain: Gain) -> str:
    word = {1: "earns", 0: "shows no sure change", -1: "costs"}[gain.verdict]
    return f"{word} ({interval(gain)}; above 0 in {gain.positive} of {gain.runs} runs)"


def interval(gain: Gain) -> str:
    """`+.0123 [+.0100, +.0150]`"""
    return f"{signed(gain.mean)} [{signed(gain.low)}, {signed(gain.high)}]"


def signed(value: float) -> str:
    """`+.0123`"""
    return f"{value:+.4f}".replace("0.", ".", 1)


def aim(summary: Summary) -> list[str]:
    """Whether the best combination reached what was aimed at, and what is left to the oracle."""
    best = summary.line(BEST)
    wanted = (
        f"The aim is an AUC of {AIM_NEW:.2f} on new items at {AIM_ALL:.2f} on all, of the best combination."
    )
    if best is None:
        return [f"{wanted} It has not been run."]
    whole, new = (best.figures[group]["auc"].mean for group in ("all", "new"))
    parts = [
        f"{value:.4f} on {what}, "
        + ("at least" if value >= goal else f"{goal - value:.4f} short of")
        + f" {goal:.2f}"
        for value, goal, what in ((new, AIM_NEW, "new items"), (whole, AIM_ALL, "all"))
    ]
    reached = new >= AIM_NEW and whole >= AIM_ALL
    out = [
        f"{wanted} It is **{'reached' if reached else 'missed'}**: {parts[0]}; {parts[1]}; means of "
        f"{_times(best.runs, 'run')}.{_by_draw(best)}"
    ]
    out += _oracle(summary, best)
    return out


def _by_draw(best: Line) -> str:
    if len(best.by_draw) < 2:
        return ""
    each = [f"draw {draw} {v['new']:.4f} at {v['all']:.4f}" for draw, v in best.by_draw.items()]
    return f" By draw, new items at all: {'; '.join(each)}."


def _oracle(summary: Summary, best: Line) -> list[str]:
    start, warm = summary.line(NOTHING), summary.line("oracle_best")
    if start is None or warm is None:
        return []
    low, high, now = (x.figures["new"]["auc"].mean for x in (start, warm, best))
    if high <= low:
        return [f"The oracle ({high:.4f} on the same new items) leaves nothing to gain over {low:.4f}."]
    return [
        f"The oracle, the best combination with the same items trained warm, has {high:.4f} on them. Of the "
        f"{high - low:.4f} between DIN + position + attributes ({low:.4f}) and it, the best combination "
        f"closes {(now - low) / (high - low):.0%} without a single like of those items."
    ]


def cautions(summary: Summary) -> Sequence[str]:
    """What a reader must know before quoting a figure."""
    out = []
    if summary.missing:
        out.append(f"Not finished: {', '.join(summary.missing)}.")
    if summary.seeds < 2 or summary.draws < 2:
        out.append(
            "One seed or one draw alone: differences under .01 are unproven whatever the interval says."
        )
    out += [
        f"Vectors of {who} come from {len(ids)} spaces ({', '.join(ids)}): do not compare those runs."
        for who, ids in summary.spaces.items()
        if len(ids) > 1
    ]
    if summary.settings.tuning:
        out.append(
            "Tuning figures: the validation split and draws of their own, for choices, not for quoting."
        )
    return out


def _times(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
