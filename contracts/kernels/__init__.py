"""Compiled kernels for functions of the serving graph; a graph runs without them too, only slower.

`build` compiles ranker_ops.c once with the machine's C compiler; `OnnxModel(path, kernels=...)` registers
the library in a session. The graph names its functions in the domain "repcenter" and carries their bodies in
plain ONNX operators: a session without the library inlines them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

_log = logging.getLogger(__name__)
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi")
_NATIVE = {
    "x86_64": "-march=native",
    "AMD64": "-march=native",
    "aarch64": "-mcpu=native",
    "arm64": "-mcpu=native",
}
_INSTEAD = "graphs run in ONNX Runtime's own operators"
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 30  # it takes one or two


def build(directory: Path, compiler: str | None = None) -> Path | None:
    """The library in `directory`, compiled unless it is there for this source and this kind of processor.

    compiler: a command on PATH, by default the first of cc, gcc, clang. None where there is no compiler, it
    refuses the source or the directory cannot be written: the graphs' own bodies run instead. Blocks for 30 s
    at most. Safe to call from several processes at once.
    """
    source = files(__package__).joinpath("ranker_ops.c").read_bytes()
    flags = [*_FLAGS, *filter(None, [_NATIVE.get(platform.machine())])]
    key = b"\0".join([source, " ".join(flags).encode(), _processor().encode()])
    target = directory / f"ranker_ops-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if target.is_file():
        return target
    found = next((c for c in ((compiler,) if compiler else _COMPILERS) if shutil.which(c)), None)
    if found is None or os.name != "posix":
        _log.warning("no C compiler: %s", _INSTEAD)
        return None
    try:
        return _compile([found, *flags], source, target)
    except subprocess.TimeoutExpired:
        _log.warning("%s took more than %d s: %s", found, _SECONDS, _INSTEAD)
    except OSError as error:  # a directory that is read-only, a compiler that cannot be started
        _log.warning("no kernels in %s: %s: %s", directory, error, _INSTEAD)
    return None


def _compile(command: list[str], source: bytes, target: Path) -> Path | None:
    """`target`, written whole or not at all; None where the compiler refuses the source."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        (Path(scratch) / "ranker_ops.c").write_bytes(source)
        done = subprocess.run(
            [*command, "ranker_ops.c", "-o", "ranker_ops.so"],
            cwd=scratch,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            reason = done.stderr.decode(errors="replace")[-2000:]
            _log.warning("%s failed: %s: %s", command[0], _INSTEAD, reason)
            return None
        os.replace(Path(scratch) / "ranker_ops.so", target)
    return target


def _processor() -> str:
    """What tells processors apart that need another library: their instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.platform())
