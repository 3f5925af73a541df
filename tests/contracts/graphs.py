"""Small ONNX graphs for tests."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper, save


def write_double(path: Path, factor: float = 2.0) -> None:
    """y (K, 3) = factor * x (K, 3); z (K, 3) = y + x."""
    nodes = [
        helper.make_node("Constant", [], ["factor"], value_float=factor),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
        helper.make_node("Add", ["y", "x"], ["z"]),
    ]
    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["K", 3]) for name in "xyz")
    graph = helper.make_graph(nodes, "double", [x], [y, z])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
