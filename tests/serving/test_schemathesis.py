"""The scorer's OpenAPI against its door: drawn requests, valid and broken, seeded, over real HTTP."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from serving.app import RunningScorer

_RUN = (
    *("--seed", "7", "--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--checks", "all"),
    # what a schema cannot say: behaviours in time order, tensors that fill their shapes, known scenes
    *("--exclude-checks", "positive_data_acceptance"),
    *("--suppress-health-check", "all", "--warnings", "off", "--no-color"),
)
# 504 is the answer to a deadline of a millisecond
_CONFIG = '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "4xx", "504"]\n'


async def test_the_door_does_what_its_openapi_says(running: RunningScorer, tmp_path: Path) -> None:
    tmp_path.joinpath("schemathesis.toml").write_text(_CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", running.http_url + "/openapi.json", *_RUN),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
