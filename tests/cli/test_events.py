"""`repcenter events`: push, import, show and forget against a real door and a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from param_server.embedded import EmbeddedServer
from tests.realtime_infer.workers import process, wait_line

ROOT = Path(__file__).parent.parent.parent


def run(url: str, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "events", *words],
        cwd=ROOT,
        env={**os.environ, "REPCENTER_REDIS_URL": url},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shown(url: str, user: str, var: Path) -> list[str]:
    answer = run(url, "show", user, "--json", "--var", str(var))
    assert answer.returncode == 0, answer.stderr
    return [b["item_id"] for b in json.loads(answer.stdout)["behaviours"]]


async def test_push_import_show_forget(tmp_path: Path) -> None:
    await asyncio.to_thread(_story, tmp_path)


def _story(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"user_id": "u", "item_id": f"i{n}", "timestamp_ms": n}) + "\n" for n in range(3)
    )
    (tmp_path / "events.ndjson").write_text(lines)
    pq.write_table(
        pa.table(
            {"user_id": ["u", "u", "v"], "item_id": [1, 2, 3], "timestamp": [5, 6, 7], "label": [1, 0, 1]}
        ),
        tmp_path / "interactions.parquet",
    )
    with (
        EmbeddedServer.start(tmp_path / "valkey") as server,
        process("run_door", server.url) as door,
    ):
        url = wait_line(door, "ready").split()[1].removeprefix("http=")
        pushed = run(server.url, "push", "--user", "u", "--item", "late", "--time", "1", "--url", url)
        assert json.loads(pushed.stdout)["appended"] == 1, pushed.stderr
        pushed = run(server.url, "push", str(tmp_path / "events.ndjson"), "--url", url)
        assert json.loads(pushed.stdout)["appended"] == 3, pushed.stderr
        pushed = run(server.url, "push", "-", "--url", url, text=lines)
        assert json.loads(pushed.stdout)["duplicates"] == 3, pushed.stderr
        imported = run(server.url, "import", str(tmp_path), "--var", str(tmp_path))
        assert json.loads(imported.stdout)["appended"] == 2, imported.stderr
        assert shown(server.url, "u", tmp_path) == ["i0", "late", "i1", "i2", "1"]
        assert json.loads(run(server.url, "forget", "u", "--url", url).stdout)["behaviours"] == 5
        assert shown(server.url, "u", tmp_path) == []
        assert shown(server.url, "v", tmp_path) == ["3"]


@pytest.mark.parametrize("words", [["push"], ["push", "a.ndjson", "--user", "u"], ["push", "--user", "u"]])
def test_push_needs_a_file_or_one_event(words: list[str]) -> None:
    answer = run("unix:///nowhere", *words)
    assert answer.returncode == 2
    assert "--user" in answer.stderr


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.ndjson").write_text('{"user_id": "u", "item_id": "a"}\n{"user": "u"}\n')
    answer = run("unix:///nowhere", "push", str(tmp_path / "e.ndjson"))
    assert answer.returncode == 1
    assert "e.ndjson: line 2" in answer.stderr
