"""NVIDIA's client of the Open Inference Protocol, unchanged (`make test-clients` installs it beside us)."""

from __future__ import annotations

import pytest

from serving.app import RunningScorer
from tests.serving.others_clients import expected_scores, same, told_by

pytestmark = pytest.mark.clients


async def test_tritonclient_over_http_and_grpc(running: RunningScorer) -> None:
    expected = await expected_scores(running)
    sessions = await told_by("triton_session.py", running.http_url.removeprefix("http://"), running)
    assert set(sessions) == {"http binary", "http json", "grpc"}
    for name, told in sessions.items():
        assert told["live"], name
        assert told["id"] == "42"
        assert told["inputs"][:2] == ["candidates", "behaviours"]
        assert "lack candidates" in told["refused"]
        for scores, statuses in zip(told["scores"], told["statuses"], strict=True):
            same(scores, statuses, expected, name)
