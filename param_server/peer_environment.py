"""A virtual environment of its own for a system that a benchmark runs beside ours, from PyPI."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_INSTALL_S = 900
FAILURES = (subprocess.SubprocessError, OSError)  # of peer_python


def peer_python(directory: Path, requirements: Sequence[str]) -> Path:
    """Its interpreter. The environment is made anew unless these very requirements are there whole.

    Raises one of FAILURES; why() says it in words.
    """
    python = (directory / "bin" / "python").absolute()
    stamp, wanted = directory / "installed", "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True, capture_output=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, *requirements], check=True, capture_output=True, timeout=_INSTALL_S)
    stamp.write_text(wanted)
    return python


def why(error: Exception) -> str:
    """What failed, with the end of what the installer said."""
    said = getattr(error, "stderr", None) or b""
    return f"{error} {said.decode(errors='replace')[-300:]}".strip()
