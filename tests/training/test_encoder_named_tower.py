"""An image tower that the user names: found out, told by a sidecar, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.errors import InvalidInput, NotFound
from contracts.onnx_model import OnnxModel
from training.recipes.named_tower import named_tower

Shape = tuple[str | int, ...]


def write(
    path: Path,
    *,
    shape: Shape = ("N", 3, 8, 6),
    outputs: tuple[str, ...] = ("map", "logits", "features"),
    kind: int = TensorProto.FLOAT,
    outside: bool = False,
) -> Path:
    """A tower whose features are the means of the three channels."""
    made = {
        "map": (helper.make_node("Relu", ["pixels"], ["map"]), list(shape)),
        "logits": (
            helper.make_node("ReduceMean", ["twice", "axes"], ["logits"], keepdims=0),
            [shape[0], 3],
        ),
        "features": (
            helper.make_node("ReduceMean", ["pixels", "axes"], ["features"], keepdims=0),
            [shape[0], 3],
        ),
    }
    nodes = [helper.make_node("Mul", ["pixels", "two"], ["twice"])]
    nodes += [made[name][0] for name in outputs]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    two = numpy_helper.from_array(np.array([2], dtype=helper.tensor_dtype_to_np_dtype(kind)), "two")
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("pixels", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, made[name][1]) for name in outputs],
        [axes, two],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if outside:
        onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(model, str(path))
    return path


def test_names_and_size_are_found(tmp_path: Path) -> None:
    tower = named_tower(write(tmp_path / "tower.onnx"))
    assert (tower.input, tower.output, tower.dim) == ("pixels", "features", 3)
    assert (tower.preprocessing.height, tower.preprocessing.width) == (8, 6)
    assert tower.preprocessing.mean == tower.preprocessing.std == (0.5, 0.5, 0.5)
    pixels = np.random.default_rng(0).random((2, 3, 8, 6), dtype=np.float32)
    features = OnnxModel(tower.graph).run({tower.input: pixels}, [tower.output])[tower.output]
    np.testing.assert_allclose(features, pixels.mean((2, 3)), atol=1e-6)


def test_the_first_flat_output_where_none_is_named_features(tmp_path: Path) -> None:
    tower = named_tower(write(tmp_path / "tower.onnx", outputs=("map", "logits"), shape=("N", 3, "H", "W")))
    assert tower.output == "logits"
    assert (tower.preprocessing.height, tower.preprocessing.width) == (224, 224)


def test_a_sidecar_tells_what_the_graph_cannot(tmp_path: Path) -> None:
    path = write(tmp_path / "tower.onnx", shape=("N", 3, "H", "W"))
    told = {"height": 32, "width": 48, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "output": "logits"}
    (tmp_path / "tower.json").write_text(json.dumps(told))
    tower = named_tower(path)
    assert (tower.preprocessing.height, tower.preprocessing.width) == (32, 48)
    assert tower.preprocessing.mean == (0.4, 0.5, 0.6)
    assert tower.preprocessing.std == (0.2, 0.3, 0.4)
    assert tower.output == "logits"


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"sizes": 3}, "tower.json"),
        ({"mean": [0.5, 0.5]}, "image_tower.mean"),
        ({"std": [0.5, 0.0, 0.5]}, "image_tower.std"),
        ({"height": 0}, "image_tower.height"),
        ({"output": "map"}, "image_tower.output"),
        ({"input": "images"}, "image_tower"),
    ],
)
def test_a_wrong_sidecar_is_refused_by_name(tmp_path: Path, told: dict[str, object], named: str) -> None:
    path = write(tmp_path / "tower.onnx")
    (tmp_path / "tower.json").write_text(json.dumps(told))
    with pytest.raises(InvalidInput) as caught:
        named_tower(path)
    assert caught.value.field == named


def test_what_is_no_image_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        named_tower(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_bytes(b"not a graph at all")
    with pytest.raises(InvalidInput, match="is not an ONNX file"):
        named_tower(tmp_path / "text.onnx")
    with pytest.raises(InvalidInput, match="batch dimension free"):
        named_tower(write(tmp_path / "one.onnx", shape=(1, 3, 8, 6)))
    with pytest.raises(InvalidInput, match="must have one float32 input"):
        named_tower(write(tmp_path / "last.onnx", shape=("N", 8, 6, 3)))
    with pytest.raises(InvalidInput, match="must have one float32 input"):
        named_tower(write(tmp_path / "double.onnx", kind=TensorProto.DOUBLE))
    with pytest.raises(InvalidInput, match="must be a float32 output"):
        named_tower(write(tmp_path / "map.onnx", outputs=("map",)))
    with pytest.raises(InvalidInput, match="weights outside its file"):
        named_tower(write(tmp_path / "outside.onnx", outside=True))
