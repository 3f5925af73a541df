"""No pickle anywhere: neither pickle itself nor what calls it underneath."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    *("contracts", "doors", "param_server", "realtime_infer", "serving", "training"),
    *("loadtests", "cli", "tests", "deploy", "examples", "docs"),
)
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle", "np.core.load"}


def offences(source: str) -> list[str]:
    """What in a Python file would read or write a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            found += [module] if module.split(".")[0] in MODULES else []
            found += [f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in CALLS:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and node.attr in ("to_pickle", "read_pickle"):
            found.append(node.attr)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            refused = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if refused else ["allow_pickle"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
        ):
            named = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found += [str(name) for name in named if str(name).split(".")[0] in MODULES]
    return found


def test_all_rooms_are_read() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"contracts", "param_server", "tests"}
    assert len(FILES) > 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle(path: Path) -> None:
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "def f():\n    import cloudpickle",
        "torch.load('x')",
        "import torch\ntorch.save({}, 'x', pickle_protocol=2)",
        "from torch import load",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "frame.to_pickle('x')",
        "importlib.import_module('dill')",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize(
    "source", ["np.load('x', allow_pickle=False)", "'pickle'", "import picklefish", "load(x)"]
)
def test_the_search_is_not_confused_by(source: str) -> None:
    assert offences(source) == []
