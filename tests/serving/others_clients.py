"""A client of others, run as a script of its own in the environment that `make test-clients` makes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from contracts.request import Behaviour, ScoreRequest
from contracts.scores import Scores
from serving.app import RunningScorer
from serving.client import HttpClient
from tests.serving.conftest import COLD

_PYTHON = Path("var/clients/bin/python").absolute()
_CANDIDATES = ["item-1", COLD[0], "never-seen", "ümläut 映画 🎬"]
_BEHAVIOURS = ["item-3", "item-4"]


async def expected_scores(running: RunningScorer) -> Scores:
    """What our own client is answered."""
    async with HttpClient(running.http_url) as client:
        return await client.score(ScoreRequest(_CANDIDATES, [Behaviour(b) for b in _BEHAVIOURS]))


async def told_by(script: str, http: str, running: RunningScorer) -> dict[str, Any]:
    """The JSON that the script beside this file prints last. http: the HTTP door as that client names it."""
    assert _PYTHON.exists(), "run `make test-clients`"
    process = await asyncio.create_subprocess_exec(
        *(str(_PYTHON), str(Path(__file__).with_name(script)), http, running.grpc_target),
        *(json.dumps(_CANDIDATES), json.dumps(_BEHAVIOURS)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    said, why = await process.communicate()
    assert process.returncode == 0, why.decode()
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def same(scores: list[str], statuses: list[int], expected: Scores, name: str) -> None:
    """scores: as float.hex writes them; equal to the bit."""
    got = np.array([float.fromhex(v) for v in scores], dtype=np.float32)
    np.testing.assert_array_equal(got, expected.scores, err_msg=name)
    assert statuses == expected.statuses.tolist()
