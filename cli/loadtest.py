"""`repcenter loadtest`: the stack, locust over HTTP and gRPC, percentiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from cli.shelf import shelf
from cli.stack import running_stack
from contracts.errors import NotFound, Unavailable

LOAD_IDS_FILE = "load_ids.json"


def run_loadtest(var: Path, seconds: int, users: int) -> None:
    """Drive the scorer for `seconds`; locust prints requests, failures and percentiles per door."""
    ids = var / LOAD_IDS_FILE
    if not ids.is_file():
        raise NotFound("list of item ids (run `make demo` first)", str(ids))
    locustfile = Path(__file__).parent.parent / "loadtests" / "locustfile.py"
    console = Console()
    with shelf(var) as redis_url, running_stack(var, redis_url) as stack:
        stack.wait_ready()
        console.print(f"{users} users for {seconds} s against {stack.endpoints.scorer_http}")
        report = var / "loadtest"
        command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(locustfile), "--headless"),
            *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"),
            *("--host", stack.endpoints.scorer_http, "--only-summary", "--csv", str(report)),
        ]
        environment = {
            **os.environ,
            "REPCENTER_LOAD_IDS": str(ids),
            "REPCENTER_LOAD_GRPC": stack.endpoints.scorer_grpc,
        }
        status = subprocess.run(command, env=environment, check=False).returncode
        stack.check()
    if status != 0:
        raise Unavailable(f"locust ended with status {status}: some requests failed")
    console.print(json.dumps({"percentiles": f"{report}_stats.csv"}))
