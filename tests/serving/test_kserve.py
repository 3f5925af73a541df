"""KServe's clients of the Open Inference Protocol, unchanged (`make test-clients` installs them)."""

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


async def test_kserve_over_http_and_grpc(running: RunningScorer) -> None:
    assert PYTHON.exists(), "run `make test-clients`"
    async with HttpClient(running.http_url) as client:
        expected = await client.score(ScoreRequest(CANDIDATES, [Behaviour(b) for b in BEHAVIOURS]))
    process = await asyncio.create_subprocess_exec(
        *(str(PYTHON), str(Path(__file__).with_name("kserve_session.py"))),
        *(running.http_url, running.grpc_target, json.dumps(CANDIDATES), json.dumps(BEHAVIOURS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    said, why = await process.communicate()
    assert process.returncode == 0, why.decode()
    sessions = json.loads(said.splitlines()[-1])
    assert sessions.pop("http ready")
    assert sessions.pop("grpc ready")
    assert set(sessions) == {"http json", "http binary", "grpc"}
    for name, told in sessions.items():
        assert told["id"] == "42", name
        got = np.array([float.fromhex(v) for v in told["scores"]], dtype=np.float32)
        np.testing.assert_array_equal(got, expected.scores, err_msg=name)
        assert told["statuses"] == expected.statuses.tolist()
