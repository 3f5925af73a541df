"""A small writer of ONNX graphs: nodes, constants and model-local functions, in the order they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 20
IR_VERSION = 10
DOMAIN = "repcenter"  # of the functions that contracts.kernels has compiled kernels for
_IMPORTS = (helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1))


class GraphBuilder:
    """Every method adds nodes and returns the name of what they compute."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.functions: list[Any] = []
        self._initializers: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One node with one output."""
        return self.split(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def split(self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """One node with several outputs."""
        self._count += 1
        names = [f"{kind}_{self._count}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names

    def const(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """An array of the graph's; equal ones are stored once."""
        array = np.array(value, dtype=dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._initializers:
            name = f"constant_{len(self._initializers)}"
            self._initializers[key] = numpy_helper.from_array(array, name)
        return str(self._initializers[key].name)

    def ints(self, *values: int) -> str:
        """(len(values),) int64, for axes and shapes."""
        return self.const(values, np.int64)

    def size(self, x: str, axis: int) -> str:
        """(1,) int64, the size of one axis."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def reshape(self, x: str, *sizes: int | str) -> str:
        """Sizes as Reshape reads them (0 = as before, -1 = the rest), or names of (1,) int64."""
        if all(isinstance(size, int) for size in sizes):
            return self.op("Reshape", x, self.ints(*(int(size) for size in sizes)))
        parts = [self.ints(size) if isinstance(size, int) else size for size in sizes]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.ints(*axes))

    def slice(self, x: str, start: int | str, end: int, axis: int) -> str:
        first = self.ints(start) if isinstance(start, int) else start
        return self.op("Slice", x, first, self.ints(end), self.ints(axis))

    def function(
        self,
        name: str,
        inputs: Sequence[str],
        body: GraphBuilder,
        output: str,
        attributes: Sequence[str] = (),
    ) -> None:
        """Declare the model-local function DOMAIN::name; `body` runs where no kernel is registered."""
        constants = [helper.make_node("Constant", [], [c.name], value=c) for c in body.constants()]
        self.functions.append(
            helper.make_function(
                DOMAIN, name, inputs, [output], constants + body.nodes, _IMPORTS[:1], attributes
            )
        )

    def constants(self) -> list[Any]:
        return list(self._initializers.values())

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The checked ModelProto. inputs, outputs: ValueInfoProto."""
        graph = helper.make_graph(self.nodes, "ranker", list(inputs), list(outputs), self.constants())
        model = helper.make_model(
            graph,
            functions=self.functions,
            opset_imports=_IMPORTS if self.functions else _IMPORTS[:1],
            ir_version=IR_VERSION,
            producer_name="repcenter",
        )
        onnx.checker.check_model(model)
        return model


def array(tensor: Any) -> npt.NDArray[np.float64]:
    """A torch weight in float64: folding is done there, rounding to float32 once at the end."""
    out: npt.NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return out
