"""Pictures named by a push: refused at the door, fetched by the worker, or dead with a reason."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import open_door
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from tests.contracts import pictures
from tests.realtime_infer.workers import ended, working


async def test_a_picture_named_by_its_path_is_fetched_and_what_fails_is_dead_alone(
    redis: Redis,
    store: Store,
    encoder: Encoder,
    encoder_settings: EncoderSettings,
    settings: StoreSettings,
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(pictures.saved(pictures.photo(), "PNG"))
    (tmp_path / "text.png").write_bytes(b"no picture")
    allowed = encoder_settings.model_copy(update={"image_roots": [str(tmp_path)]})
    bodies = [
        {"item_id": "path", "image_url": f"{tmp_path}/a.png"},
        {"item_id": "none", "image_url": f"{tmp_path}/none.png", "title": "Heat"},
        {"item_id": "text", "image_url": f"file://{tmp_path}/text.png"},
        {"item_id": "data", "image_url": "data:image/png;base64," + pictures_base64()},
    ]
    async with open_door(allowed, settings) as door, httpx.AsyncClient(base_url=door.http_url) as http:
        for body in bodies:
            assert (await http.post("/v1/items", json=body)).status_code == 202
        refused = await http.post("/v1/items", json={"item_id": "x", "image_url": "/etc/hostname"})
        both = await http.post("/v1/items", json={**bodies[0], "image": pictures_base64()})
    for answer in (refused, both):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "image_url"
    async with working(allowed, settings):
        path, none, text, data = await ended(Ingest(redis, allowed), ["path", "none", "text", "data"])
    assert (path.state.value, data.state.value) == ("scoreable", "scoreable")
    assert (none.state.value, text.state.value) == ("dead", "dead")
    assert none.reason.startswith("image_url: cannot be read (FileNotFoundError)")
    assert text.reason.startswith("image: is not a readable picture")


@pytest.mark.parametrize("url", ["https://example.com/a.png", "s3://bucket/a.png", "/etc/passwd", "data:,x"])
async def test_nothing_is_fetched_unless_it_is_allowed(http: httpx.AsyncClient, url: str) -> None:
    answer = await http.post("/v1/items", json={"item_id": "a", "image_url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "image_url"


def pictures_base64() -> str:
    return base64.b64encode(pictures.saved(pictures.photo(), "PNG")).decode()
