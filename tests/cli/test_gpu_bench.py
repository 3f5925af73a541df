from __future__ import annotations

import onnxruntime
import pytest
from typer.testing import CliRunner

from cli.bench_commands import bench_app

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime was built with CUDA")
def test_without_a_gpu_it_says_so_and_ends_with_3() -> None:
    result = CliRunner().invoke(bench_app, ["gpu"])
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "nothing was measured: no cuda" in result.stderr


@pytest.mark.parametrize("wrong", ["", "ten", "0,5", "-1"])
def test_counts_that_cannot_be_used_are_refused(wrong: str) -> None:
    result = CliRunner().invoke(bench_app, ["gpu", "--candidates", wrong])
    assert result.exit_code == 2
    assert "candidates" in result.stderr
