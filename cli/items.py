"""`repcenter score | push | status | delete`: what a running stack is asked from the command line."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from cli.score_request import column, score_request
from cli.settings import ClientSettings
from contracts.errors import InvalidInput, NotFound
from contracts.items import Item
from contracts.request import Priority
from serving.client import HttpClient, ItemStatus

_POLL_S = 0.02
T = TypeVar("T")


def _ask(url: str, question: Callable[[HttpClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with HttpClient(url, credentials=ClientSettings().credentials()) as client:
            return await question(client)

    return asyncio.run(run())


def print_scores(
    url: str,
    candidates: list[str],
    behaviours: list[str],
    scene: str,
    as_json: bool,
    user: Sequence[str] = (),
    context: Sequence[str] = (),
    query_file: Path | None = None,
    *,
    query_text: str = "",
    query_image: Path | None = None,
    contents: Path | None = None,
    user_id: str | None = None,
    priority: Priority = "normal",
) -> None:
    """Best first; items that are not known have no score. user, context: name=value; contents: JSON."""
    request = score_request(
        candidates,
        behaviours,
        scene,
        user,
        context,
        query_file,
        query_text=query_text,
        query_image=query_image,
        contents_file=contents,
        user_id=user_id,
        priority=priority,
    )
    answer = _ask(url, lambda client: client.score(request))
    names = answer.status_names()
    order = answer.top(len(candidates))
    order += [n for n in range(len(candidates)) if n not in set(order)]
    rows = [
        {
            "item_id": candidates[n],
            "score": None if names[n] == "missing" else float(answer.scores[n]),
            "status": names[n],
        }
        for n in order
    ]
    if as_json:
        print(json.dumps({"scene": answer.scene, "generation": answer.generation, "scores": rows}))
        return
    table = Table("item", "score", "status", title=f"{answer.scene} · {answer.generation}")
    for row in rows:
        table.add_row(
            str(row["item_id"]), "–" if row["score"] is None else f"{row['score']:.5f}", str(row["status"])
        )
    Console().print(table)


def push_one(
    url: str, item_id: str, title: str, image: Path | None, attributes: list[str], wait_s: float
) -> None:
    """Push one item and wait until it is scoreable or dead."""
    if image is not None and not image.is_file():
        raise InvalidInput("--image", str(image), "is not a file")
    item = Item(
        item_id,
        {"title": title} if title else {},
        dict(column(a, "--attribute") for a in attributes),
        image.read_bytes() if image is not None else None,
    )

    async def push(client: HttpClient) -> ItemStatus:
        began = time.monotonic()
        receipt = await client.push(item)
        print(f"accepted {item_id}, sequence {receipt.sequence}")
        while True:
            status = await client.status(item_id)
            settled = status.state in ("scoreable", "dead", "deleted") and status.sequence >= receipt.sequence
            if settled or time.monotonic() - began > wait_s:
                return status
            await asyncio.sleep(_POLL_S)

    _print_status(_ask(url, push))


def print_status(url: str, item_id: str) -> None:
    _print_status(_ask(url, lambda client: client.status(item_id)))


def delete_item(url: str, item_id: str) -> None:
    receipt = _ask(url, lambda client: client.delete(item_id))
    print(f"deletion of {item_id} accepted, sequence {receipt.sequence}")


def _print_status(status: ItemStatus) -> None:
    print(json.dumps(asdict(status)))
    if status.state == "dead":
        raise NotFound("scoreable item", f"{status.item_id}: {status.reason}")
