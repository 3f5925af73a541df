"""The command line: fast help, lazy imports, errors in one line, docs that follow the settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import app
from cli.settings_page import settings_page

ROOT = Path(__file__).parent.parent.parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["demo"],
        ["up"],
        ["score"],
        ["push"],
        ["generations"],
        ["generations", "activate"],
        ["generations", "collect"],
        ["data", "check"],
        ["bench"],
        ["bench", "graph"],
        ["bench", "serve"],
        ["table", "load"],
        ["plan-memory"],
        ["bench", "table"],
    ],
)
def test_help_answers(words: list[str]) -> None:
    answer = run(*words, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "Usage" in answer.stdout


def test_help_imports_no_room() -> None:
    code = (
        "import sys; from cli.main import app; import typer.main; typer.main.get_command(app); "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('contracts','param_server','realtime_infer','serving','training','torch','numpy','redis','pydantic')])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_every_command_is_described() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__


def test_our_errors_are_one_line_that_names_the_value(tmp_path: Path) -> None:
    answer = run("data", "check", str(tmp_path / "nothing"))
    assert answer.returncode == 1
    assert "nothing" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unreachable_scorer_is_said() -> None:
    answer = run("score", "--url", "http://127.0.0.1:9", "item")
    assert answer.returncode == 1
    assert answer.stderr.startswith("repcenter: unavailable:")


def test_demo_refuses_an_unknown_ranker(tmp_path: Path) -> None:
    answer = run("demo", "--serve", "wide", "--var", str(tmp_path))
    assert answer.returncode == 1
    assert "wide" in answer.stderr


def test_bench_refuses_an_unknown_ranker() -> None:
    answer = run("bench", "graph", "--models", "dmae,wide")
    assert answer.returncode == 1
    assert answer.stderr.startswith("repcenter: invalid:")
    assert "wide" in answer.stderr


def test_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named
    assert named <= targets
