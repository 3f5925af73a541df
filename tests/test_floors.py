"""What `make check` says of imports, and what a serving-only install needs: no torch."""

from __future__ import annotations

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
