"""`repcenter explain`: why the best candidates score as they do, in the terminal and as a page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.explain_page import Shown, page
from cli.score_request import score_request
from cli.settings import ClientSettings
from contracts.errors import InvalidInput
from contracts.explanation import Explanation
from contracts.scores import Scores
from serving.client import HttpClient

_BAR = 24
_SHADES = " ░▒▓█"


def explain(
    url: str,
    candidates: list[str],
    behaviours: list[str],
    scene: str,
    count: int,
    user_id: str | None,
    user: Sequence[str],
    context: Sequence[str],
    query_file: Path | None,
    html: Path | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Ask the scorer and draw. html: write a page there; data: with titles and pictures for it."""
    request = score_request(
        candidates, behaviours, scene, user, context, query_file, user_id=user_id, explain=count
    )

    async def ask() -> Scores:
        async with HttpClient(url, credentials=ClientSettings().credentials()) as client:
            return await client.score(request)

    answer = asyncio.run(ask())
    explanations = answer.explanations or ()
    if html is not None:
        shown = Shown.of(data, explanations)
        try:
            html.write_text(page(answer, explanations, shown), encoding="utf-8")
        except OSError as error:
            raise InvalidInput("--html", str(html), f"cannot be written: {error}") from error
    if as_json:
        found = {"scene": answer.scene, "generation": answer.generation}
        print(json.dumps({**found, "explanations": [asdict(e) for e in explanations]}))
        return
    console = Console()
    for explanation in explanations:
        _draw(console, explanation)
    if not explanations:
        console.print("No candidate has a score.")
    if html is not None:
        console.print(f"page: {html}", markup=False)


def _draw(console: Console, e: Explanation) -> None:
    title = Text.assemble((e.item_id, "bold"), f"  score {e.score:.5f}, logit {e.logit:+.3f}")
    table = Table("what", "value", "", title=title, title_justify="left")
    most = max((abs(value) for value in e.contributions.values()), default=0.0)
    for name, value in e.contributions.items():
        table.add_row(Text(f"logit by {name}"), f"{value:+.3f}", _bar(value, most))
    for name, weighed in e.behaviours.items():
        table.add_section()
        top = max((abs(w.value) for w in weighed), default=0.0)
        for w in weighed:
            table.add_row(
                Text(name), f"{w.value:+.3f}", _bar(w.value, top) + Text(f" {w.item_id} (age {w.age})")
            )
    for name, grid in e.distributions.items():
        table.add_section()
        for region, row in enumerate(grid):
            if any(row):
                table.add_row(Text(f"{name}, region {region}"), f"{sum(row):.1%}", _shades(row))
    console.print(table)


def _bar(value: float, most: float) -> Text:
    size = round(_BAR * abs(value) / most) if most else 0
    return Text(("█" * size).ljust(_BAR), "green" if value >= 0 else "red")


def _shades(row: Sequence[float]) -> Text:
    """Least similar on the left; two characters an interval, full at a quarter of the behaviours."""
    return Text("".join(_SHADES[min(4, -int(-share * 16 // 1))] * 2 for share in row))
