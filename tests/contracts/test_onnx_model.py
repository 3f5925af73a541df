"""OnnxModel: the provider that was asked for or none, named arrays in and out."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from contracts.errors import BrokenBundle, InvalidInput, ProviderUnavailable
from contracts.onnx_model import OnnxModel, check_runtime
from tests.contracts.graphs import write_double

X = np.arange(6, dtype=np.float32).reshape(2, 3)
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_double(tmp_path / "double.onnx")
    return tmp_path / "double.onnx"


def test_names_and_shapes(path: Path) -> None:
    model = OnnxModel(path)
    assert (model.input_names, model.output_names) == (("x",), ("y", "z"))
    assert model.input_shapes == {"x": ("K", 3)}
    assert model.output_shapes == {"y": ("K", 3), "z": ("K", 3)}


def test_run(path: Path) -> None:
    model = OnnxModel(path)
    outputs = model.run({"x": X, "left_out": X})
    np.testing.assert_array_equal(outputs["y"], 2 * X)
    np.testing.assert_array_equal(outputs["z"], 3 * X)
    assert list(model.run({"x": X}, ["z"])) == ["z"]


def test_missing_inputs_are_named(path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs: lack \['x'\]"):
        OnnxModel(path).run({"y": X})


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime was built with CUDA")
def test_a_provider_that_is_not_there_is_refused_not_replaced(path: Path) -> None:
    with pytest.raises(ProviderUnavailable, match="CUDAExecutionProvider"):
        OnnxModel(path, device="cuda")


@pytest.mark.skipif(not HAS_CUDA, reason="this ONNX Runtime was built without CUDA")
def test_cuda_is_obtained_or_refused(path: Path) -> None:
    try:
        model = OnnxModel(path, device="cuda")
    except ProviderUnavailable:
        return
    np.testing.assert_array_equal(model.run({"x": X})["y"], 2 * X)


@pytest.mark.parametrize("data", [None, b"", b"rubbish", b"\x08\x0a"])
def test_what_is_no_graph_is_a_broken_bundle(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(BrokenBundle, match=r"bad\.onnx"):
        OnnxModel(tmp_path / "bad.onnx")


def test_exactly_one_runtime_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_runtime() in ("onnxruntime", "onnxruntime-gpu")
    for installed in (set[str](), {"onnxruntime", "onnxruntime-gpu"}):

        def version(name: str, there: set[str] = installed) -> str:
            if name not in there:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1.31.1"

        monkeypatch.setattr(importlib.metadata, "version", version)
        with pytest.raises(ProviderUnavailable, match="install exactly one"):
            check_runtime()


def test_onnxruntime_is_imported_in_one_place() -> None:
    root = Path(__file__).parents[2]
    importers = []
    for room in ("contracts", "param_server", "realtime_infer", "serving", "training", "loadtests", "cli"):
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.split(".")[0] == "onnxruntime" for name in names):
                    importers.append(path.relative_to(root).as_posix())
    assert importers == ["contracts/onnx_model.py"]
