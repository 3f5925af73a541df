from __future__ import annotations

import logging
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest

from contracts.errors import BrokenBundle, ProviderUnavailable
from contracts.kernels import build
from contracts.onnx_model import OnnxModel, check_kernels
from tests.training.serving_graph.rankers import ranker, requests
from training.models.dmae import DmaeConfig
from training.serving_graph.write import write_serving_graph

DMAE = DmaeConfig(dim=32)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "ranker.onnx"
    write_serving_graph(ranker(DMAE, din_hidden=(80, 40), history_length=70), path)
    return path


@pytest.mark.parametrize("n", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("t", [1, 2, 5, 12, 69, 70])
def test_a_kernel_is_the_body_of_its_function(n: int, t: int, graph: Path, kernels: Path) -> None:
    inputs = requests(3, n, t, seed=n + 100 * t)
    inputs["behaviour_mask"] &= np.random.default_rng(t).random((3, t)) < 0.8  # holes anywhere
    body, kernel = OnnxModel(graph).run(inputs), OnnxModel(graph, kernels=kernels).run(inputs)
    assert np.abs(body["logit"] - kernel["logit"]).max() <= 2e-6 * max(1.0, np.abs(body["logit"]).max())


def test_the_kernels_really_run(tmp_path: Path, graph: Path, kernels: Path) -> None:
    model = onnx.load(str(graph))
    assert {f.name for f in model.functions} == {"DinScores", "DmaeInterest"}
    for function in model.functions:
        del function.node[:]
        function.node.append(onnx.helper.make_node("Identity", [function.input[0]], [function.output[0]]))
    onnx.save_model(model, str(tmp_path / "hollow.onnx"))  # bodies that do something else
    inputs = requests(2, 9, 20)
    with_kernels = OnnxModel(tmp_path / "hollow.onnx", kernels=kernels).run(inputs)["logit"]
    assert np.array_equal(with_kernels, OnnxModel(graph, kernels=kernels).run(inputs)["logit"])


def test_many_sessions_and_threads_share_the_library(graph: Path, kernels: Path) -> None:
    inputs = [requests(1, 20 + k, 10 + k) for k in range(8)]
    alone = [OnnxModel(graph, kernels=kernels).run(x)["logit"] for x in inputs]
    shared = OnnxModel(graph, kernels=kernels)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = list(pool.map(lambda x: shared.run(x)["logit"], inputs))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_similarity_that_is_not_a_number_stays_one(graph: Path, kernels: Path) -> None:
    inputs = requests(1, 20, 10)
    wanted = OnnxModel(graph, kernels=kernels).run(inputs)["logit"][0]
    row = int(inputs["candidates"][0, 3])
    inputs["inv_norm"][row] = np.nan
    logit = OnnxModel(graph, kernels=kernels).run(inputs)["logit"][0]
    assert not np.isin(row, inputs["behaviours"])
    touched = inputs["candidates"][0] == row
    assert np.isfinite(logit[~touched]).all()
    assert np.array_equal(logit[~touched], wanted[~touched])


def test_more_behaviours_than_the_history_length_are_refused(graph: Path, kernels: Path) -> None:
    with pytest.raises(Exception, match=r"more behaviours|broadcast|dimension|incompatible|invalid"):
        OnnxModel(graph, kernels=kernels).run(requests(1, 4, 120))


def test_a_library_is_built_once_per_source(tmp_path: Path, kernels: Path) -> None:
    shutil.copy(kernels, tmp_path / kernels.name)
    stamp = (tmp_path / kernels.name).stat().st_mtime_ns
    assert build(tmp_path, compiler="no such compiler") == tmp_path / kernels.name
    assert (tmp_path / kernels.name).stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == [kernels.name]


@pytest.mark.parametrize(("compiler", "said"), [("no-such-compiler", "no C compiler"), ("false", "failed")])
def test_without_a_compiler_the_bodies_run(
    compiler: str, said: str, tmp_path: Path, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        library = build(tmp_path, compiler=compiler)
    assert library is None
    assert said in caplog.text
    assert np.isfinite(OnnxModel(graph, kernels=library).run(requests(1, 3, 5))["logit"]).all()


def test_a_directory_that_cannot_be_written_is_no_end(
    tmp_path: Path, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert build(tmp_path / "file" / "kernels") is None
    assert "no kernels in" in caplog.text


def test_a_library_that_is_none_is_refused(tmp_path: Path, graph: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"not a library")
    with pytest.raises(ProviderUnavailable, match=r"broken\.so"):
        OnnxModel(graph, kernels=tmp_path / "broken.so")
    with pytest.raises(ProviderUnavailable, match=r"broken\.so"):
        check_kernels(tmp_path / "broken.so")


def test_a_graph_without_bodies_needs_the_library(tmp_path: Path, graph: Path, kernels: Path) -> None:
    model = onnx.load(str(graph))
    del model.functions[:]
    onnx.save_model(model, str(tmp_path / "bare.onnx"))
    OnnxModel(tmp_path / "bare.onnx", kernels=kernels)
    with pytest.raises(BrokenBundle, match="not a registered function"):
        OnnxModel(tmp_path / "bare.onnx")


@pytest.mark.parametrize("flags", [[], ["-mavx2", "-mfma"]])
def test_fewer_lanes_give_the_same(flags: list[str], tmp_path: Path, graph: Path, kernels: Path) -> None:
    cpu = Path("/proc/cpuinfo")
    if flags and not (cpu.exists() and " avx2 " in cpu.read_text()):
        pytest.skip("no AVX2 on this machine")
    source = str(files("contracts.kernels").joinpath("ranker_ops.c"))
    command = ["cc", "-O1", "-std=gnu11", "-fPIC", "-shared", "-Wno-psabi", *flags, source, "-o", "narrow.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    inputs = requests(2, 21, 33)
    narrow = OnnxModel(graph, kernels=tmp_path / "narrow.so").run(inputs)["logit"]
    assert np.allclose(narrow, OnnxModel(graph, kernels=kernels).run(inputs)["logit"], rtol=1e-5, atol=1e-5)
