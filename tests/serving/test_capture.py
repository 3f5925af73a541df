"""Slow requests are kept with their bytes, in bounded room, and score the same again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from cli.main import app
from contracts.errors import BrokenBundle, Conflict, InvalidInput, RepcenterError, UnknownVersion
from contracts.features import assemble
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import Scores
from param_server.settings import StoreSettings
from serving.app import open_scorer
from serving.capture import SlowRequests
from serving.capture_file import Capture, decode_capture, encode_capture, this_build
from serving.client import HttpClient
from serving.replay import open_captured, replay_capture
from serving.scored import Scored
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD, HOSTILE, WITH_CONTENT, World, until

REQUEST = ScoreRequest(
    [*HOSTILE, COLD[0], "never-seen", "item-3", "item-3"],
    [Behaviour(WITH_CONTENT[n], 10 + n) for n in range(20)],
    user_id="u \0 {1}",
    user={"age": 3.5},
    context={"tags": ["a", "b"]},
    query={"text": [1.0] * 16},
    request_id="slow {one}",
)


@pytest_asyncio.fixture
async def captured(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> AsyncIterator[tuple[Path, Scores]]:
    """The file of one captured request, and what was answered."""
    all_slow = scorer_settings.model_copy(update={"capture_slow_ms": 0.0})
    async with open_scorer(all_slow, settings) as running:
        await until(running.readiness.is_ready)
        async with HttpClient(running.http_url) as client:
            answer = await client.score(REQUEST)
            await client.score(REQUEST)  # too soon after the first
    (file,) = (settings.var_dir / "slow").iterdir()
    yield file, answer


async def test_a_captured_request_scores_identically(captured: tuple[Path, Scores], world: World) -> None:
    file, answer = captured
    capture = decode_capture(file.read_bytes(), file.name)
    assert capture.request == REQUEST
    assert capture.generation == world.generation
    np.testing.assert_array_equal(capture.scores, answer.scores)
    records = await world.records()
    dtype = world.generation.space.dtype
    for item_id, row, found in zip(
        capture.item_ids, capture.fetched.records, capture.fetched.found, strict=True
    ):
        assert found == (item_id in records)
        assert not found or row.tobytes() == np.frombuffer(records[item_id], dtype)[0].tobytes()
    again = replay_capture(capture, open_captured(capture, ScorerSettings()), ScorerSettings())
    assert again.identical
    assert (again.difference, again.differs) == (0.0, {})


async def test_the_command(captured: tuple[Path, Scores], world: World, tmp_path: Path) -> None:
    file, answer = captured
    await world.redis.flushall()  # nothing but the file and the bundle is needed
    ran = await asyncio.to_thread(
        CliRunner().invoke, app, ["replay", str(file), "--json", "--var", str(tmp_path)]
    )
    assert ran.exit_code == 0, ran.output
    document = json.loads(ran.stdout)
    assert (document["identical"], document["difference"], document["differs"]) == (True, 0.0, {})
    assert document["request_id"] == "slow {one}"
    assert document["scores"] == [None if np.isnan(s) else float(s) for s in answer.scores]
    capture = decode_capture(file.read_bytes(), file.name)
    changed = capture.scores + np.float32(2e-5)
    other = tmp_path / "changed.capture"
    other.write_bytes(encode_capture(Capture(**{**vars(capture), "scores": changed})))
    ran = await asyncio.to_thread(CliRunner().invoke, app, ["replay", str(tmp_path), "--var", str(tmp_path)])
    assert isinstance(ran.exception, Conflict)
    assert "1 of 1 requests score differently" in str(ran.exception)
    assert "differ by at most 2" in ran.stdout


async def test_what_cannot_be_replayed_is_told(
    captured: tuple[Path, Scores], bundles: tuple[object, object], tmp_path: Path
) -> None:
    data = captured[0].read_bytes()
    for broken in (b"", b"not a zip", data[: len(data) // 2], data[:-1], data + b"x"):
        with pytest.raises(InvalidInput, match="x"):
            decode_capture(broken, "x")
    for at in range(0, len(data), 97):  # any damage is told
        damaged = bytearray(data)
        damaged[at] ^= 0x04
        with pytest.raises((InvalidInput, UnknownVersion), match="x"):
            decode_capture(bytes(damaged), "x")
    head = b'{"request": {"candidates": [1]}}'
    for body in (b"", head, b"[]", b"\xff"):
        whole = b"repcenter capture 1\n" + len(body).to_bytes(8, "little") + body
        with pytest.raises(InvalidInput, match="is no captured request: "):
            decode_capture(whole + hashlib.sha256(whole).digest(), "x")
    with pytest.raises(UnknownVersion, match="version '2' is unknown"):
        decode_capture(data.replace(b"capture 1", b"capture 2", 1), "x")
    capture = decode_capture(data, "x")
    loaded = open_captured(capture, ScorerSettings())
    renamed = Capture(**{**vars(capture), "item_ids": capture.item_ids[::-1]})
    with pytest.raises(BrokenBundle, match="captured rows"):
        replay_capture(renamed, loaded, ScorerSettings())
    with pytest.raises(RepcenterError):
        open_captured(capture, ScorerSettings(), ranker_uri=str(tmp_path))
    two = ScorerSettings(threads=2)
    assert replay_capture(capture, loaded, two).differs == {"threads": (1, 2)}


async def test_the_ring_is_bounded(
    captured: tuple[Path, Scores], world: World, settings: StoreSettings, tmp_path: Path
) -> None:
    capture = decode_capture(captured[0].read_bytes(), "x")
    loaded = open_captured(capture, ScorerSettings())
    assembled = assemble([capture.request], loaded.schema, capture.now_ms)
    scores = Scores("default", loaded.id, capture.scores, np.zeros(0, np.uint8), None, capture.timings)  # type: ignore[arg-type]
    registry = CollectorRegistry()
    bounded = ScorerSettings(capture_slow_ms=0.0, capture_bytes=1 << 20, capture_per_minute=60_000)
    ring = SlowRequests(tmp_path / "slow", bounded, registry, kernels=False)

    def count(outcome: str) -> float:
        return registry.get_sample_value("repcenter_slow_requests_total", {"outcome": outcome}) or 0.0

    assert set(this_build("cpu", 1, False, True)) - set(this_build("cpu", 1, False)) == {"shape_buckets"}
    size = len(encode_capture(Capture(**{**vars(capture), "build": this_build("cpu", 1, False)})))
    wanted = (1 << 20) // size + 5

    async def taken() -> bool:
        ring.observe(Scored(capture.request, capture.now_ms, loaded, assembled, capture.fetched, scores))
        return count("captured") >= wanted

    await until(taken)
    ring.close()
    files = list((tmp_path / "slow").iterdir())
    assert len(files) <= (1 << 20) // size + 1
    assert sum(file.stat().st_size for file in files) <= 1 << 20
    assert count("failed") == 0
