"""What the demo prints: the models' test figures, one user's best items, commands to try."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from cli.demo_serving import Shown
from cli.stack import Endpoints
from contracts.scores import OK
from training.data.dataset import Dataset

_TITLES = {
    "din": "DIN",
    "din_pos": "DIN with position",
    "ciubm": "CiUBM over DIN with position",
    "dmae": "DMAE over DIN with position",
}
_TOP = 10
_LIKED = 5


def print_models(console: Console, figures: dict[str, Any]) -> None:
    table = Table(title="Test split")
    table.add_column("ranker")
    columns = (
        "AUC",
        "AUC warm",
        "AUC new",
        "GAUC user",
        "GAUC request",
        "logloss",
        "ECE",
        "predicted/observed",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, title in _TITLES.items():
        values = (
            figures["auc"][name],
            figures["auc_warm"][name],
            figures["auc_new"][name],
            figures["gauc"]["user"][name],
            figures["gauc"]["request"][name],
            figures["logloss"][name],
            figures["calibration"][name]["all"]["ece_after"],
            figures["calibration"][name]["all"]["ratio_after"],
        )
        served = " (serves)" if name == figures["served_ranker"] else ""
        table.add_row(title + served, *("–" if v is None else f"{v:.4f}" for v in values))
    console.print(table)
    facts = Table(title="Online")
    facts.add_column("what")
    facts.add_column("figure", justify="right")
    push, score = figures["push_to_scoreable_ms"], figures["score_ms"]
    facts.add_row(f"push to scoreable, {figures['pushed_items']:,} new items", f"p50 {push['p50']:.0f} ms")
    facts.add_row("", f"p99 {push['p99']:.0f} ms")
    facts.add_row("score 100 candidates, at the client", f"p50 {score['p50']:.1f} ms")
    facts.add_row("", f"p99 {score['p99']:.1f} ms")
    facts.add_row(
        f"largest online/offline difference of {figures['compared_scores']:,} scores",
        f"{figures['max_abs_diff_online_offline']:.1e}",
    )
    facts.add_row("seconds in total", f"{figures['seconds_total']:.0f}")
    console.print(facts)


def print_top(console: Console, dataset: Dataset, new: npt.NDArray[np.bool_], shown: Shown) -> None:
    catalogue = dataset.catalogue

    def title(item_id: str) -> str:
        return catalogue.titles[catalogue.row_of[item_id]]

    liked = [title(b.item_id) for b in shown.request.behaviours[-_LIKED:]]
    console.print(f"User {shown.request.user_id} liked lately: {'; '.join(liked)}", highlight=False)
    table = Table(title=f"Best of {len(shown.request.candidates)} candidates")
    for column in ("score", "item", "title", "new"):
        table.add_column(column)
    for n in shown.scores.top(_TOP):
        item_id = shown.request.candidates[n]
        fresh = "new" if new[catalogue.row_of[item_id]] else ""
        table.add_row(f"{shown.scores.scores[n]:.4f}", item_id, title(item_id), fresh)
    console.print(table)


def print_examples(console: Console, endpoints: Endpoints, shown: Shown) -> None:
    """Commands that work against the stack that is left running."""
    known = [c for c, s in zip(shown.request.candidates, shown.scores.statuses, strict=True) if s == OK][:3]
    behaviours = [{"item_id": b.item_id} for b in shown.request.behaviours[-3:]]
    body = json.dumps({"candidates": known, "behaviours": behaviours})
    past = " ".join(f"-b {b['item_id']}" for b in behaviours)
    console.print("\nThe stack is running; Ctrl-C stops it. Try, from another terminal:\n")
    for line in (
        f"curl -s {endpoints.scorer_http}/v1/score -H 'content-type: application/json' -d '{body}'",
        f"curl -s {endpoints.scorer_http}/v1/generations",
        f"curl -s {endpoints.door_http}/v1/items -H 'content-type: application/json' "
        '-d \'{"item_id": "mine-1", "title": "A red wooden chair"}\'',
        f"curl -s {endpoints.door_http}/v1/items/mine-1",
        f".venv/bin/repcenter score --url {endpoints.scorer_http} {past} {' '.join(known)} mine-1",
        f".venv/bin/repcenter push --url {endpoints.door_http} --id mine-2 --title 'A blue glass lamp'",
        ".venv/bin/python -c 'import asyncio; from serving.client import GrpcClient; "
        "from contracts.request import ScoreRequest; "
        f'print(asyncio.run(GrpcClient("{endpoints.scorer_grpc}").score(ScoreRequest({json.dumps(known)}))))\'',
        f"open {endpoints.scorer_http}/docs and {endpoints.door_http}/docs for the OpenAPI pages",
    ):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
