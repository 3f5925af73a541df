"""Lines for people and for machines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from doors.logs import JsonFormatter

_PROGRAM = """
import logging
from doors.logs import configure_logs
configure_logs("scorer")
log = logging.getLogger("serving.live")
log.debug("not written")
log.info("generation %s\\nserves", "g1", extra={"scene": "home", "rows": 3})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
logging.getLogger("uvicorn.error").warning("of a library")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_process_says_it_its_way(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.replace("\\\\", "\\")],
        cwd=Path(__file__).parents[2],
        env={"REPCENTER_LOG_FORMAT": form},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stderr.splitlines()
    if form == "text":
        assert "INFO serving.live: generation g1" in lines[0]
        assert "ZeroDivisionError" in done.stderr
        return
    told, failed, library = (json.loads(line) for line in lines)
    assert {k: told[k] for k in ("level", "logger", "process", "message", "scene", "rows")} == {
        "level": "info",
        "logger": "serving.live",
        "process": "scorer",
        "message": "generation g1\nserves",
        "scene": "home",
        "rows": 3,
    }
    assert told["time"].endswith("Z")
    assert "ZeroDivisionError" in failed["error"]
    assert (library["logger"], library["level"]) == ("uvicorn.error", "warning")


def test_whatever_is_given_is_a_line() -> None:
    given = {"msg": "half \ud800", "levelno": 20, "levelname": "INFO", "odd": object(), "level": "mine"}
    line = json.loads(JsonFormatter("p").format(logging.makeLogRecord(given)))
    assert line["odd"].startswith("<object")
    assert (line["message"], line["level"]) == ("half \ud800", "info")
