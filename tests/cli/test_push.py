"""`repcenter push items.parquet` as a process, against a real write door."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from param_server.settings import StoreSettings
from realtime_infer.app import open_door
from realtime_infer.push_entry import PushEntry, decode_entry
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import PARTITIONS, Partition
from tests.realtime_infer.conftest import entries

STREAM = Partition().pushes
PICTURE = b"\x89PNG in its own column"


def write_items(directory: Path, titles: list[str], images: list[bytes | None] | None = None) -> Path:
    columns: dict[str, object] = {"item_id": [f"film {n}" for n in range(len(titles))], "title": titles}
    if images is not None:
        columns["image"] = pa.array(images, pa.binary())
    pq.write_table(pa.table(columns), directory / "items.parquet")
    return directory / "items.parquet"


def door_settings(**update: object) -> EncoderSettings:
    return EncoderSettings(http_port=0, grpc_port=0, stop_s=2.0).model_copy(update=update)


async def command(url: str, *words: str) -> tuple[int, str, str]:
    """-> exit status, standard output, standard error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REPCENTER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "push", *words, "--url", url),
        env={**environment, "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def pushed(redis: Redis) -> list[PushEntry]:
    return [decode_entry(fields) for _, fields in await entries(redis, STREAM)]


@pytest.fixture
async def stream(redis: Redis) -> Redis:
    await redis.set(PARTITIONS, 1)
    return redis


async def test_every_item_once_and_the_refused_are_named(
    stream: Redis, settings: StoreSettings, tmp_path: Path
) -> None:
    titles = [f"title {n}" for n in range(150)]
    titles[3] = titles[140] = " "
    images: list[bytes | None] = [None] * 150
    images[7] = PICTURE
    file = write_items(tmp_path, titles, images)
    async with open_door(door_settings(), settings) as door:
        status, out, error = await command(door.http_url, str(file), "--json")
    assert status == 1
    sums = json.loads(out)
    assert (sums["items"], sums["accepted"], sums["refused"], sums["resumed"]) == (150, 148, 2, 0)
    assert "row 3, film 3: " in error
    assert "2" in error.splitlines()[-1]
    found = await pushed(stream)
    wanted = {f"film {n}" for n in range(150)} - {"film 3", "film 140"}
    assert Counter(entry.item_id for entry in found) == Counter(wanted)
    (pictured,) = [entry.item for entry in found if entry.item_id == "film 7"]
    assert pictured is not None
    assert (pictured.image, pictured.text) == (PICTURE, {"title": "title 7"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet"]


async def test_a_push_that_was_stopped_goes_on_where_it_was(
    stream: Redis, settings: StoreSettings, tmp_path: Path
) -> None:
    """The backlog has room for 100 of 200: the rest is refused until there is room."""
    file = write_items(tmp_path, [f"title {n}" for n in range(200)])
    ledger = tmp_path / "ledger"
    words = (str(file), "--ledger", str(ledger), "--concurrency", "1", "--patience", "0", "--json")
    async with open_door(door_settings(max_backlog=100, bulk_wait_s=0, retry_after_s=0.01), settings) as door:
        status, out, error = await command(door.http_url, *words)
        assert (status, out) == (1, "")
        assert "overloaded" in error
        assert len(ledger.read_text().splitlines()) == 2  # the job and the first chunk of 64
        found = await pushed(stream)
        assert len(found) == 100
        await stream.xtrim(STREAM, maxlen=0, approximate=False)
        status, out, error = await command(door.http_url, *words)
        assert status == 0, error
        found += await pushed(stream)
    sums = json.loads(out)
    assert (sums["resumed"], sums["accepted"], sums["replayed"]) == (64, 136, 36)
    assert Counter(entry.item_id for entry in found) == Counter(f"film {n}" for n in range(200))
    assert not ledger.exists()


async def test_another_file_or_door_begins_anew(
    stream: Redis, settings: StoreSettings, tmp_path: Path
) -> None:
    file, ledger = write_items(tmp_path, ["a", "b"]), tmp_path / "ledger"
    ledger.write_text('{"job": {"url": "elsewhere"}, "run": "x"}\n{"chunk": 0, "refused": {}}\n')
    async with open_door(door_settings(), settings) as door:
        status, out, error = await command(door.http_url, str(file), "--ledger", str(ledger), "--json")
        assert (status, json.loads(out)["accepted"]) == (0, 2), error
        ledger.write_text("no ledger\n")
        status, _, error = await command(door.http_url, str(file), "--ledger", str(ledger))
        assert status == 1
        assert "--ledger: is no ledger" in error
        status, _, error = await command(door.http_url, str(file), "--ledger", str(ledger), "--restart")
        assert status == 0, error
