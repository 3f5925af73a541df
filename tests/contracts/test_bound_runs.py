"""Runs through kept buffers, for real on the CPU provider: the same numbers, bounded, one at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from contracts.bound_runs import BoundRuns, Tensors
from contracts.errors import InvalidInput, ProviderUnavailable
from contracts.onnx_model import OnnxModel
from tests.contracts.graphs import write_double


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    write_double(tmp_path / "double.onnx")
    return OnnxModel(tmp_path / "double.onnx")


def x(rows: int, value: float = 1.0) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"x": np.full((rows, 3), value, np.float32)}


def test_buffers_are_kept_by_shape_and_outputs_are_copies(model: OnnxModel) -> None:
    first = model.run_bound(x(2))
    second = model.run_bound(x(2, 5.0))
    third = model.run_bound(x(4, 7.0), ["z"])
    assert (first["y"] == 2).all()
    assert (second["y"] == 10).all()
    assert (third["z"] == 21).all()
    assert list(third) == ["z"]
    assert model.bound.shapes == 2
    assert model.bound.bytes == 3 * 2 * 3 * 4 + 2 * 4 * 3 * 4
    assert not model.captures


def test_rows_of_a_larger_array_are_copied_whole(model: OnnxModel) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2]
    assert np.array_equal(model.run_bound({"x": values})["y"], 2 * values)


def test_many_threads_never_mix_their_numbers(model: OnnxModel) -> None:
    def one(value: int) -> bool:
        got = model.run_bound(x(1 + value % 3, value))["y"]
        return bool((got == 2 * value).all()) and got.shape == (1 + value % 3, 3)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(400)))
    assert model.bound.shapes == 3


def bounded(model: OnnxModel, **bounds: int) -> BoundRuns:
    own = model.bound
    return BoundRuns(own._new_binding, own._allocate, own._run, own._inputs, own._outputs, **bounds)


def test_beyond_the_bounds_there_are_no_buffers(model: OnnxModel) -> None:
    few = bounded(model, most_shapes=2)
    assert [few.run(x(rows), ["y"]) is None for rows in (1, 2, 3, 2)] == [False, False, True, False]
    small = bounded(model, most_bytes=100)
    assert [small.run(x(rows), ["y"]) is None for rows in (2, 50, 1, 2)] == [False, True, False, False]
    assert small.bytes <= 100
    model.bound = few
    assert (model.run_bound(x(3, 4.0))["y"] == 8).all()


def test_inputs_that_are_not_the_graph_s_are_named(model: OnnxModel) -> None:
    with pytest.raises(InvalidInput, match=r"inputs.x: must be tensor\(float\)"):
        model.run_bound({"x": np.ones((2, 3))})
    with pytest.raises(InvalidInput, match=r"inputs.x: must have the axes"):
        model.run_bound({"x": np.ones((2, 4), np.float32)})
    with pytest.raises(InvalidInput, match=r"inputs.x: must have the axes"):
        model.run_bound({"x": np.ones(3, np.float32)})
    with pytest.raises(InvalidInput, match=r"inputs: lack \['x'\]"):
        model.run_bound({})
    model.run_bound(x(2))
    with pytest.raises(InvalidInput, match="must be tensor"):
        model.run_bound({"x": np.ones((2, 3), np.int32)})


def test_axes_of_one_name_have_one_size(tmp_path: Path) -> None:
    a, b, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["K"]) for name in "aby")
    z = helper.make_tensor_value_info("z", TensorProto.INT64, [1, "unknown"])
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("NonZero", ["a"], ["z"])]
    graph = helper.make_graph(nodes, "sum", [a, b], [y, z])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g")
    model = OnnxModel(tmp_path / "g")
    two, one = np.ones(2, np.float32), np.ones(1, np.float32)
    with pytest.raises(InvalidInput, match="has K = 2 elsewhere"):
        model.run_bound({"a": two, "b": one}, ["y"])
    with pytest.raises(InvalidInput, match=r"graph.z: has a size that no input tells"):
        model.run_bound({"a": two, "b": two}, ["z"])


def test_a_type_that_no_buffer_has_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"graph.s: cannot be bound"):
        Tensors({"s": ("K",)}, {"s": "tensor(string)"}).dtype("s")


def test_cuda_graphs_are_not_for_the_cpu(tmp_path: Path) -> None:
    write_double(tmp_path / "double.onnx")
    with pytest.raises(ProviderUnavailable, match="CUDA graphs were asked for on the device cpu"):
        OnnxModel(tmp_path / "double.onnx", cuda_graphs=True)


def test_a_session_is_gone_with_its_model(tmp_path: Path) -> None:
    import gc
    import weakref

    write_double(tmp_path / "double.onnx")
    model = OnnxModel(tmp_path / "double.onnx")
    model.run_bound(x(2))
    gone = weakref.ref(model._session)
    gc.disable()
    try:
        del model
        assert gone() is None  # at once: nothing refers to itself
    finally:
        gc.enable()
