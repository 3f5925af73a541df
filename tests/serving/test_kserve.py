"""KServe's clients of the Open Inference Protocol, unchanged (`make test-clients` installs them)."""

from __future__ import annotations

import pytest

from serving.app import RunningScorer
from tests.serving.others_clients import expected_scores, same, told_by

pytestmark = pytest.mark.clients


async def test_kserve_over_http_and_grpc(running: RunningScorer) -> None:
    expected = await expected_scores(running)
    sessions = await told_by("kserve_session.py", running.http_url, running)
    assert sessions.pop("http ready")
    assert sessions.pop("grpc ready")
    assert set(sessions) == {"http json", "http binary", "grpc"}
    for name, told in sessions.items():
        assert told["id"] == "42", name
        same(told["scores"], told["statuses"], expected, name)
