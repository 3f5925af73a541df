"""Items on both wires, and what the write door says of them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from contracts.errors import RepcenterError, Unavailable
from contracts.items import Item
from contracts.problem import error_of


@dataclass(frozen=True)
class Receipt:
    """An accepted push or deletion. sequence: as given by the write door; replayed: its idempotency key was
    known, and this is the receipt of the push that came with it first."""

    item_id: str
    sequence: int
    replayed: bool = False


@dataclass(frozen=True)
class ItemStatus:
    """state: queued, encoding, scoreable, deleted or dead; reason: why it is dead, else None;
    updated_ms: 0 where unknown."""

    item_id: str
    state: str
    sequence: int
    reason: str | None
    updated_ms: int


def item_body(item: Item, key: str | None = None) -> bytes:
    """The JSON of POST /v1/items. key: for idempotency."""
    named = {} if key is None else {"idempotency_key": key}
    return orjson.dumps({"item_id": item.item_id, **content_document(item), **named})


def content_document(item: Item) -> dict[str, Any]:
    """What the item looks like and says, as every door's JSON has it."""
    return {
        "text": dict(item.text),
        "attributes": dict(item.attributes),
        "image": None if item.image is None else base64.b64encode(item.image).decode(),
        **({} if item.image_url is None else {"image_url": item.image_url}),
    }


def read_outcomes(body: bytes, count: int) -> list[Receipt | RepcenterError]:
    """The answer to an upload of so many items; Unavailable where it was cut off."""
    *lines, last = [orjson.loads(line) for line in body.splitlines()] or [{}]
    if "problem" in last and "accepted" in last:
        raise error_of(last["problem"])
    if "accepted" not in last or len(lines) != count:
        raise Unavailable(f"the door answered {len(lines)} of {count} items")
    return [
        error_of(line["problem"], line["problem"].get("retry_after_s"))
        if "problem" in line
        else Receipt(line["item_id"], line["sequence"], line.get("replayed", False))
        for line in lines
    ]


def item_path(item_id: str) -> str:
    """The path of one item; dots are encoded too, or ids such as ".." would be resolved away."""
    return "/v1/items/" + quote(item_id, safe="").replace(".", "%2E")
