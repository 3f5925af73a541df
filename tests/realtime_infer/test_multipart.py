"""A push as multipart/form-data, by a real client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from contracts.images import MAX_IMAGE_BYTES
from contracts.items import Item
from realtime_infer.push_entry import decode_entry
from tests.encoder_bundle import picture
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import KEYS

BLUE = picture((20, 20, 220))
PICTURE = {"image": ("heat.png", BLUE, "image/png")}


async def test_the_item_as_one_part_or_in_parts(redis: Redis, http: httpx.AsyncClient) -> None:
    item = {"item_id": "ü/1", "title": "Heat", "attributes": {"genres": ["Crime", "Drama"], "year": 1995}}
    whole = await http.post("/v1/items", data={"item": json.dumps(item)}, files=PICTURE)
    parts = await http.post(
        "/v1/items",
        data={
            "item_id": "ü/1",
            "text": json.dumps({"title": "Heat"}),
            "attributes": json.dumps(item["attributes"]),
            "idempotency_key": "k",
        },
        files=PICTURE,
    )
    assert (whole.status_code, parts.status_code) == (202, 202), parts.text
    assert parts.headers["location"] == "/v1/items/%C3%BC%2F1"
    wanted = Item("ü/1", {"title": "Heat"}, {"genres": ["Crime", "Drama"], "year": 1995}, BLUE)
    assert [decode_entry(fields).item for _, fields in await entries(redis, KEYS.pushes)] == [wanted] * 2
    fields = {"item_id": (None, "b"), "title": (None, "no picture")}
    assert (await http.post("/v1/items", files=fields)).status_code == 202


@pytest.mark.parametrize(
    ("data", "files", "field"),
    [
        ({}, PICTURE, "item_id"),
        ({"item_id": "a", "colour": "red"}, PICTURE, "colour"),
        ({"item_id": "a", "attributes": "{"}, PICTURE, "attributes"),
        ({"item_id": "a", "text": "[]"}, PICTURE, "text"),
        ({"item": "{"}, PICTURE, "body"),
        ({"item": '{"item_id": "a"}', "title": "x"}, PICTURE, "title"),
        ({"item": json.dumps({"item_id": "a", "image": "eA=="})}, PICTURE, "image"),
        ({"item_id": "a", "image_url": "https://x.example/a.png"}, PICTURE, "image_url"),
        ({"item_id": "a", "image": "text"}, {"title": ("t.txt", b"x")}, "image"),
        ({"item_id": ["a", "b"]}, PICTURE, "item_id"),
        ({"item_id": "a"}, {"image": ("empty.png", b"")}, "image"),
        ({"item_id": "a"}, {"image": ("big.png", b"x" * (MAX_IMAGE_BYTES + 1))}, "image"),
        ({f"f{n}": "x" for n in range(9)}, PICTURE, "body"),
    ],
)
async def test_unusable_forms_name_the_field(
    redis: Redis, http: httpx.AsyncClient, data: dict[str, Any], files: dict[str, Any], field: str
) -> None:
    answer = await http.post("/v1/items", data=data, files=files)
    assert answer.status_code in (413, 422), answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert await entries(redis, KEYS.pushes) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"no form", b"--x\r\n\r\n", b'--x\r\ncontent-disposition: form-data; name="item_id"\r\n\r\na'],
)
@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
async def test_broken_forms_are_problems(
    redis: Redis, http: httpx.AsyncClient, body: bytes, kind: str
) -> None:
    answer = await http.post("/v1/items", content=body, headers={"content-type": kind})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await entries(redis, KEYS.pushes) == []
