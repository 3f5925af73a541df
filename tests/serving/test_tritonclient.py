"""NVIDIA's client of the Open Inference Protocol, unchanged (`make test-clients` installs it beside us)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from contracts.request import Behaviour, ScoreRequest
from serving.app import RunningScorer
from serving.client import HttpClient
from tests.serving.conftest import COLD

pytestmark = pytest.mark.clients
PYTHON = Path("var/clients/bin/python").absolute()
CANDIDATES = ["item-1", COLD[0], "never-seen", "ümläut 映画 🎬"]
BEHAVIOURS = ["item-3", "item-4"]


async def test_tritonclient_over_http_and_grpc(running: RunningScorer) -> None:
    assert PYTHON.exists(), "run `make test-clients`"
    async with HttpClient(running.http_url) as client:
        expected = await client.score(ScoreRequest(CANDIDATES, [Behaviour(b) for b in BEHAVIOURS]))
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), str(Path(__file__).with_name("triton_session.py"))),
        *(running.http_url.removeprefix("http://"), running.grpc_target),
        *(json.dumps(CANDIDATES), json.dumps(BEHAVIOURS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    said, why = await process.communicate()
    assert process.returncode == 0, why.decode()
    sessions = json.loads(said)
    assert set(sessions) == {"http binary", "http json", "grpc"}
    for name, told in sessions.items():
        assert told["live"], name
        assert told["id"] == "42"
        assert told["inputs"][:2] == ["candidates", "behaviours"]
        assert "lack candidates" in told["refused"]
        for scores, statuses in zip(told["scores"], told["statuses"], strict=True):
            got = np.array([float.fromhex(v) for v in scores], dtype=np.float32)
            np.testing.assert_array_equal(got, expected.scores, err_msg=name)
            assert statuses == expected.statuses.tolist()
