"""torch module -> ONNX graph -> parity: what every graph of an encoder bundle goes through."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from contracts.errors import BrokenBundle
from contracts.onnx_model import OnnxModel

OPSET = 20
PARITY = 1e-4


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    path: Path,
) -> float:
    """Write one self-contained ONNX file; the largest absolute difference between torch and ONNX Runtime.

    inputs: by name, in the order of `module.forward`, an example with at least 2 along each free axis.
    axes: input name -> axis -> name of a free dimension. Raises BrokenBundle above PARITY.
    """
    module.eval()
    dims = {name: Dim(name, min=1) for free in axes.values() for name in free.values()}
    shapes = tuple({axis: dims[name] for axis, name in axes.get(i, {}).items()} for i in inputs)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of optional packages that are absent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise BrokenBundle(f"{path.name}: the exporter gave no graph")
    program.save(str(path), external_data=False)
    return check_parity(module, inputs, outputs, OnnxModel(path), path.name)


def check_parity(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], model: OnnxModel, name: str
) -> float:
    """The largest absolute difference over all outputs, or BrokenBundle where it exceeds PARITY or is NaN."""
    with torch.no_grad():
        expected = module(*inputs.values())
    if isinstance(expected, Tensor):
        expected = (expected,)
    actual = model.run({key: value.numpy() for key, value in inputs.items()}, outputs)
    worst = 0.0
    for output, tensor in zip(outputs, expected, strict=True):
        difference = float(np.abs(actual[output] - tensor.numpy()).max(initial=0.0))
        if not difference <= PARITY:
            raise BrokenBundle(f"{name}: {output} differs from torch by {difference:.3g}, at most {PARITY}")
        worst = max(worst, difference)
    return worst
