"""An ONNX image tower that the user names: its input, output and preprocessing, found or told.

Beside `tower.onnx` may lie `tower.json`: any of height, width (pixels), mean, std (of three channels,
after x / 255), input, output (names).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from contracts.errors import InvalidInput, NotFound
from contracts.images import ImagePreprocessing
from contracts.onnx_model import OnnxModel

DEFAULT_SIZE = 224
PREFERRED_OUTPUT = "features"
_SIDECAR = {"height", "width", "mean", "std", "input", "output"}
_HALF = (0.5, 0.5, 0.5)  # x / 127.5 - 1
_MAX_SIZE = 1024


@dataclass(frozen=True)
class ImageTower:
    """graph: `input` (K, 3, H, W) float32 -> `output` (K, dim) float32."""

    graph: Path
    preprocessing: ImagePreprocessing
    input: str
    output: str
    dim: int


def named_tower(path: Path) -> ImageTower:
    """Read and try the tower. Raises NotFound, or InvalidInput that says what the file lacks."""
    if not path.is_file():
        raise NotFound("image tower", str(path))
    told = _sidecar(path.with_suffix(".json"))
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's decoder raises its own kind
        raise InvalidInput(
            "image_tower", str(path), f"is not an ONNX file ({type(error).__name__})"
        ) from error
    if any(uses_external_data(tensor) for tensor in graph.initializer):
        raise InvalidInput("image_tower", str(path), "keeps weights outside its file: save it as one file")
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {v.name: _shape(v) for v in graph.input if v.name not in constants}
    if len(inputs) != 1:
        raise InvalidInput("image_tower", sorted(inputs), "must have exactly one input")
    name = str(told.get("input", next(iter(inputs))))
    shape = inputs.get(name)
    if shape is None or len(shape) != 4 or shape[1] not in (3, None):
        raise InvalidInput("image_tower", inputs, "must have one float32 input (N, 3, height, width)")
    if shape[0] is not None:
        raise InvalidInput("image_tower", shape, "must leave its batch dimension free")
    output = _output(graph, told)
    height, width = (
        int(told.get(key, fixed or DEFAULT_SIZE))
        for key, fixed in (("height", shape[2]), ("width", shape[3]))
    )
    if not (1 <= height <= _MAX_SIZE and 1 <= width <= _MAX_SIZE):
        raise InvalidInput("image_tower.height", (height, width), f"must be 1 to {_MAX_SIZE} pixels")
    preprocessing = ImagePreprocessing(height, width, _channels(told, "mean"), _channels(told, "std"))
    return ImageTower(path, preprocessing, name, output, _try(path, preprocessing, name, output))


def _sidecar(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidInput(path.name, str(path), "is not JSON") from error
    if not isinstance(told, dict) or set(told) - _SIDECAR:
        raise InvalidInput(path.name, told, f"must be an object of {sorted(_SIDECAR)}")
    return told


def _channels(told: dict[str, Any], key: str) -> tuple[float, float, float]:
    values = told.get(key, _HALF)
    if not (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(v, int | float) and np.isfinite(v) for v in values)
        and (key != "std" or all(v > 0 for v in values))
    ):
        raise InvalidInput(f"image_tower.{key}", values, "must be three numbers, of std above 0")
    return float(values[0]), float(values[1]), float(values[2])


def _shape(value: Any) -> tuple[int | None, ...] | None:
    """None where it is no float32 tensor of known rank; a free dimension is None."""
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT or not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _output(graph: Any, told: dict[str, Any]) -> str:
    flat = [v.name for v in graph.output if len(_shape(v) or ()) == 2]
    wanted = told.get("output", PREFERRED_OUTPUT if PREFERRED_OUTPUT in flat else next(iter(flat), None))
    if wanted not in flat:
        raise InvalidInput("image_tower.output", wanted, f"must be a float32 output (N, d), one of {flat}")
    return str(wanted)


def _try(path: Path, preprocessing: ImagePreprocessing, name: str, output: str) -> int:
    """Two grey pictures through the tower -> its dimension."""
    pixels = np.zeros((2, 3, preprocessing.height, preprocessing.width), dtype=np.float32)
    try:
        features = OnnxModel(path).run({name: pixels}, [output])[output]
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise InvalidInput("image_tower", str(path), f"does not run: {str(error)[:200]}") from error
    if features.ndim != 2 or len(features) != 2 or not np.isfinite(features).all():
        raise InvalidInput("image_tower", features.shape, "must give one finite vector per picture")
    return int(features.shape[1])
