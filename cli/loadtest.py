"""`repcenter loadtest`: the stack, locust over HTTP and gRPC, percentiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from cli.shelf import running_endpoints, shelf
from cli.stack import answers_http, running_stack
from contracts.errors import NotFound, Unavailable

LOAD_IDS_FILE = "load_ids.json"


def run_loadtest(var: Path, seconds: int, users: int) -> None:
    """Drive the running stack, or one started here; locust prints failures and percentiles per door."""
    ids = var / LOAD_IDS_FILE
    if not ids.is_file():
        raise NotFound("list of item ids (run `make demo` first)", str(ids))
    console = Console()
    endpoints = running_endpoints(var)
    if endpoints and answers_http(f"{endpoints['scorer_http']}/health/ready"):
        _drive(console, endpoints["scorer_http"], endpoints["scorer_grpc"], var, seconds, users)
        return
    with shelf(var) as redis_url, running_stack(var, redis_url) as stack:
        stack.wait_ready()
        _drive(console, stack.endpoints.scorer_http, stack.endpoints.scorer_grpc, var, seconds, users)
        stack.check()


def _drive(console: Console, http: str, grpc: str, var: Path, seconds: int, users: int) -> None:
    console.print(f"{users} users for {seconds} s against {http} and {grpc}")
    locustfile = Path(__file__).parent.parent / "loadtests" / "locustfile.py"
    report = var / "loadtest"
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", str(locustfile), "--headless"),
        *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"),
        *("--host", http, "--only-summary", "--csv", str(report)),
    ]
    environment = {
        **os.environ,
        "REPCENTER_LOAD_IDS": str(var / LOAD_IDS_FILE),
        "REPCENTER_LOAD_GRPC": grpc,
    }
    status = subprocess.run(command, env=environment, check=False).returncode
    if status != 0:
        raise Unavailable(f"locust ended with status {status}: some requests failed")
    console.print(json.dumps({"percentiles": f"{report}_stats.csv"}))
