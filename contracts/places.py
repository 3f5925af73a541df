"""Where ONNX Runtime put a graph's nodes: a device that is only partly used is said, or refused."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from contracts.errors import ProviderUnavailable

CPU = "CPUExecutionProvider"
_WORK = frozenset(("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv", "Attention", "Softmax"))
_SHAPES = ("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Reshape", "Expand", "Identity")
_PIECES = ("Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Equal", "Where")
_SUMS = ("Neg", "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
_OF_SHAPES = frozenset((*_SHAPES, *_PIECES, *_SUMS))

_log = logging.getLogger(__name__)


def places(session: Any) -> dict[str, Counter[str]]:
    """Provider -> its nodes by operator, of an InferenceSession that recorded them."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return found


def check_places(name: str, wanted: str, found: Mapping[str, Counter[str]]) -> None:
    """Say which nodes are on the CPU of the graph `name`, which was to run on the provider `wanted`.

    ONNX Runtime puts the arithmetic of shapes there on purpose: it is not copied back and forth. Others are a
    warning; ProviderUnavailable where matrix products or convolutions are among them, or none is on `wanted`.
    """
    on_cpu = found.get(CPU, Counter())
    if on_cpu.keys() & _WORK or wanted not in found:
        raise ProviderUnavailable(f"{name}: asked for {wanted}, but nodes are on the CPU: {dict(on_cpu)}")
    odd = sorted(on_cpu.keys() - _OF_SHAPES)
    _log.log(
        logging.WARNING if odd else logging.INFO,
        *("%s: %d nodes on %s, on the CPU %s", name, found[wanted].total(), wanted, dict(on_cpu)),
    )
