"""OpenAPI documents against the scorer's door: drawn requests, valid and broken, seeded, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from serving.app import RunningScorer
from tests.serving.conftest import World

_RUN = (
    *("--seed", "7", "--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--checks", "all"),
    *("--suppress-health-check", "all", "--warnings", "off", "--no-color"),
)
# 504 is the answer to a deadline of a millisecond
_CONFIG = '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "4xx", "504"]\n'
# MLServer's wheel has the protocol's OpenAPI document (`make test-clients`)
OFFICIAL = "var/clients/lib/python*/site-packages/mlserver/rest/openapi/dataplane.json"
_NOT_OF_THE_PROTOCOL = ("/infer_stream", "/generate", "/generate_stream")


async def run(folder: Path, document: str, config: str, *options: str) -> None:
    folder.joinpath("schemathesis.toml").write_text(config)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", document, *_RUN, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_the_door_does_what_its_openapi_says(running: RunningScorer, tmp_path: Path) -> None:
    # what a schema cannot say: behaviours in time order, tensors that fill their shapes, known scenes
    excluded = "--exclude-checks", "positive_data_acceptance"
    await run(tmp_path, running.http_url + "/openapi.json", _CONFIG, *excluded)


@pytest.mark.clients
async def test_the_door_does_what_the_protocols_openapi_says(
    running: RunningScorer, world: World, tmp_path: Path
) -> None:
    """Its own document of the Open Inference Protocol, for a model and a version that are there."""
    found = sorted(Path.cwd().glob(OFFICIAL))
    assert found, "run `make test-clients`"
    document = json.loads(found[0].read_bytes())
    paths = document["paths"]
    document["paths"] = {p: paths[p] for p in paths if not p.endswith(_NOT_OF_THE_PROTOCOL)}
    assert len(document["paths"]) == 9
    data = document["components"]["schemas"]["TensorData"]
    data["oneOf"] = [kind for kind in data["oneOf"] if kind["type"] != "bytes"]  # no type of JSON
    tmp_path.joinpath("protocol.json").write_text(json.dumps(document))
    given = f'"path.model_name" = "default"\n"path.model_version" = "{world.generation.id}"\n'
    await run(
        tmp_path,
        "protocol.json",
        f"[parameters]\n{given}{_CONFIG}",
        *("--url", running.http_url, "--exclude-checks", "positive_data_acceptance"),
    )
