"""A serving graph with its dense layers in half precision, for comparison.

Only products with constant weights are: inputs are cast before, outputs back after. Dot products of raw codes
reach 127² · 128 = 2,064,512 and halves end at 65,504, so similarities stay in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper


def half_products(model: Any) -> Any:
    """A ModelProto in, another out: functions inlined, MatMul and Gemm with constant weights in float16."""
    inlined = inliner.inline_local_functions(model)
    graph = inlined.graph
    constants = {value.name: value for value in graph.initializer}
    constants |= {
        n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute[0].t.dims
    }
    nodes, halves = [], {}
    for number, node in enumerate(graph.node):
        if node.op_type not in ("MatMul", "Gemm") or any(name not in constants for name in node.input[1:]):
            nodes.append(node)
            continue
        names = []
        for name in node.input[1:]:
            halves[name] = numpy_helper.from_array(
                numpy_helper.to_array(constants[name]).astype(np.float16), f"{name}_half"
            )
            names.append(halves[name].name)
        half_in, half_out = f"half_in_{number}", f"half_out_{number}"
        product = helper.make_node(node.op_type, [half_in, *names], [half_out])
        product.attribute.extend(node.attribute)
        nodes += [
            helper.make_node("Cast", [node.input[0]], [half_in], to=TensorProto.FLOAT16),
            product,
            helper.make_node("Cast", [half_out], list(node.output), to=TensorProto.FLOAT),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(halves.values())
    del graph.value_info[:]
    onnx.checker.check_model(inlined)
    return inlined
