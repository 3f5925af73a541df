from __future__ import annotations

import json

import pytest

from param_server.behaviour_bench import run


def test_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    run(users=100, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert all(value > 0 for value in found.values())
    assert found["ratio_to_packed_200"] < found["ratio_to_packed_20"]
    assert 200 * (17 + 12) + 12 < found["bytes_per_user_200"] < 2 * 200 * (17 + 12)
