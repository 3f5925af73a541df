"""OpenAPI of pushes: what a body may be, with an example of each, and what an upload of many answers."""

from __future__ import annotations

from typing import Any

import orjson

from realtime_infer.item_body import EXAMPLE, EXAMPLE_LINES, KEY, ItemBody
from realtime_infer.multipart import MULTIPART
from realtime_infer.ndjson import NDJSON

KEY_HEADER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": f"{KEY} With NDJSON each line that has none gets this key and its line number.",
}
_OUTCOMES = (
    '{"line": 0, "item_id": "heat-1995", "sequence": 17}\n'
    '{"line": 1, "item_id": "ronin-1998", "problem": {"type": "urn:repcenter:problem:invalid", '
    '"status": 422, "title": "A field cannot be used", "detail": "title: …", "instance": "/v1/items"}}\n'
    '{"accepted": 1, "refused": 1}\n'
)
BULK_ANSWER: dict[str, Any] = {
    "description": "Of NDJSON: an outcome per line, in order; the last line has the sums. Without it the "
    "upload was cut off. `problem` in the last line: why the rest was not read.",
    "content": {NDJSON: {"schema": {"type": "string"}, "example": _OUTCOMES}},
}


def push_schema() -> dict[str, Any]:
    """OpenAPI's requestBody."""
    item = ItemBody.model_json_schema()
    deletion = '{"item_id": "…", "delete": true}'
    lines = {"type": "string", "description": f"A push per line, or a deletion: {deletion}."}
    image = {"type": "string", "format": "binary", "description": "The picture."}
    properties = {name: field for name, field in item["properties"].items() if name != "image"}
    form = {"type": "object", "properties": {"image": image, "item": item, **properties}}
    example = {name: value for name, value in EXAMPLE.items() if name not in ("image", "text")}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": item, "example": EXAMPLE},
            NDJSON: {"schema": lines, "example": EXAMPLE_LINES},
            MULTIPART: {
                "schema": form,
                "example": {"item": orjson.dumps(example).decode(), "image": "@heat.png"},
            },
        },
    }
