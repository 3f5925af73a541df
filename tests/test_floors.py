"""Imports look down only, a serving-only install needs no torch, ARCHITECTURE.md names the files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {"torch", "transformers", "bitsandbytes", "onnx", "onnxscript", "locust"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_imports_look_down_only() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    answer = subprocess.run(
        [str(linter), "--config", ".importlinter"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize(
    "module", ["serving.app", "serving.client", "realtime_infer.app", "realtime_infer.backfill", "cli.stack"]
)
def test_serving_needs_no_torch(module: str) -> None:
    code = f"{_BLOCK}\nimport {module}\nassert 'torch' not in sys.modules"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_help_works_without_torch() -> None:
    code = f"{_BLOCK}\nsys.argv = ['repcenter', '--help']\nfrom cli.main import main\nmain()"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "score" in answer.stdout


@pytest.mark.parametrize("room", ["param_server", "realtime_infer"])
def test_every_file_of_a_room_is_in_architecture(room: str) -> None:
    named = set(re.findall(r"`(?:[a-z_]+/)*([a-z_]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text()))
    files = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
    assert files - named == set()


def test_architecture_names_no_file_that_is_gone() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", (ROOT / "ARCHITECTURE.md").read_text()))
    there = {str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/**/*.py")}
    assert [
        name for name in sorted(named) if not any(f"/{path}".endswith(f"/{name}") for path in there)
    ] == []


def test_no_two_decisions_share_a_number() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs" / "adr").glob("*.md")]
    assert sorted(numbers) == sorted(set(numbers))
