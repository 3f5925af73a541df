from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import onnxruntime
import pytest

from contracts.errors import ProviderUnavailable
from contracts.places import CPU, check_places, places
from tests.contracts.graphs import write_double

CUDA = "CUDAExecutionProvider"


def test_places_are_what_the_runtime_recorded(tmp_path: Path) -> None:
    write_double(tmp_path / "double.onnx")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(tmp_path / "double.onnx"), options, providers=[CPU])
    assert places(session) == {CPU: Counter({"Mul": 1, "Add": 1})}


def test_the_arithmetic_of_shapes_may_be_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_places("g", CUDA, {CUDA: Counter(MatMul=3), CPU: Counter(Shape=2, Concat=1)})
    assert caplog.records[-1].levelno == logging.INFO
    assert "3 nodes on CUDAExecutionProvider" in caplog.text


def test_other_nodes_there_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_places("g", CUDA, {CUDA: Counter(MatMul=3), CPU: Counter(ScatterElements=1)})
    assert caplog.records[-1].levelno == logging.WARNING
    assert "ScatterElements" in caplog.text


@pytest.mark.parametrize("found", [{CUDA: Counter(Add=1), CPU: Counter(MatMul=1)}, {CPU: Counter(Add=3)}, {}])
def test_work_on_the_cpu_is_refused(found: dict[str, Counter[str]]) -> None:
    with pytest.raises(ProviderUnavailable, match="g: asked for CUDAExecutionProvider"):
        check_places("g", CUDA, found)
