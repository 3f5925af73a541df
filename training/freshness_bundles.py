"""The bundles of `repcenter bench freshness`: the demo's encoder; an encoder and a ranker that cost nothing.

Times of an encoder depend on its graphs, not on its weights: the demo's head is trained for a moment only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from contracts.bundle import Bundle, Golden, seal, write_golden
from contracts.codec import encode_id_rows
from contracts.encoder_spec import MODALITIES, EncoderSpec
from contracts.features import GRAPH_OUTPUTS
from contracts.guard import PROBES_FILE, Guard, choose_probes, write_guard
from contracts.images import ImagePreprocessing
from contracts.items import Item, TextTemplate
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import RankerSpec
from contracts.schema import FeatureSchema
from contracts.space import Space
from param_server.id_rows import write_id_rows
from training.recipes.csft_config import CsftConfig
from training.recipes.encoder import EncoderConfig, StageProgress, train_encoder
from training.recipes.image_tower import ImageTowerConfig

DIM = 128  # the demo's
_SIDE, _TOKENS, _OPSET = 8, 16, 20
_ID_DIM = 8
_TOLERANCE = 1e-12  # of a vector's length, where it is divided by it
TEXT_FIELD = "title"


def demo_encoder(
    directory: Path, items: Sequence[Item], image_tower: Path | None, cache: Path, progress: StageProgress
) -> Bundle:
    """The demo's graphs: MiniLM, the image tower that is named (else the small one), the head."""
    rows = np.arange(len(items), dtype=np.int32)
    config = EncoderConfig(
        image=ImageTowerConfig(samples=2 * len(items), batch=32),
        csft=CsftConfig(steps=1, warm_up=1),
        cache=cache,
    )
    bundle, _ = train_encoder(
        items,
        np.stack([rows, np.roll(rows, 1)], axis=1),
        text_fields=(TEXT_FIELD,),
        attribute_fields=(),
        directory=directory,
        image_tower=image_tower,
        config=config,
        progress=progress,
    )
    return bundle


def trivial_encoder(directory: Path) -> Bundle:
    """A whole encoder bundle whose three graphs are a handful of operators over (K, 128)."""
    directory.mkdir(parents=True)
    spec = EncoderSpec(
        dim=DIM,
        template=TextTemplate((TEXT_FIELD,)),
        max_tokens=_TOKENS,
        image=ImagePreprocessing(_SIDE, _SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        image_input="pixels",
        image_output="image_features",
        attributes=(),
    )
    words = {"[PAD]": 0, "[UNK]": 1, **{str(n): n + 2 for n in range(100)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(directory / spec.tokenizer))
    graphs = {"text": spec.text_graph, "image": spec.image_graph, "head": spec.head_graph}
    for name, graph in (("text", _text()), ("image", _image()), ("head", _head())):
        (directory / graphs[name]).write_bytes(graph)
    golden = _golden({name: OnnxModel(directory / file) for name, file in graphs.items()})
    write_golden(directory, golden)
    write_guard(directory / PROBES_FILE, Guard(choose_probes(golden["head"][1], 0)))
    return seal(directory, "encoder", spec.to_json())


def trivial_ranker(directory: Path, space: Space) -> Bundle:
    """A ranker of any space that scores a candidate by the length of its first vector, with one ID row."""
    directory.mkdir(parents=True)
    nodes = [
        helper.make_node("Gather", ["inv_norm", "first"], ["lengths"], axis=1),
        helper.make_node("Gather", ["lengths", "candidates"], ["logit"], axis=0),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]
    graph = _graph(
        nodes,
        [
            _tensor("inv_norm", TensorProto.FLOAT, "K", len(space.modalities)),
            _tensor("candidates", TensorProto.INT32, "B", "N"),
        ],
        [_tensor(name, TensorProto.FLOAT, "B", "N") for name in GRAPH_OUTPUTS],
        {"first": np.array(0)},
    )
    (directory / "ranker.onnx").write_bytes(graph)
    inputs = {
        "inv_norm": np.linspace(0.1, 1, 3 * len(space.modalities), dtype=np.float32).reshape(3, -1),
        "candidates": np.array([[0, 2, 1]], dtype=np.int32),
    }
    outputs = OnnxModel(directory / "ranker.onnx").run(inputs, GRAPH_OUTPUTS)
    write_golden(directory, {"ranker": (inputs, outputs)})
    row = encode_id_rows(np.ones((1, _ID_DIM), dtype=np.float32), np.ones(1, dtype=np.float32))
    write_id_rows(directory / "id_rows.parquet", ["nobody"], row)
    spec = RankerSpec({}, space, FeatureSchema(1, _ID_DIM, ()), 1)
    return seal(directory, "ranker", spec.to_json())


def _text() -> bytes:
    """(K, L) tokens -> (K, DIM): sines of the sum of the tokens."""
    waves = np.linspace(0.1, 3, DIM, dtype=np.float32)[None, :]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "waves"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["text_features"]),
    ]
    return _graph(
        nodes,
        [_tensor(name, TensorProto.INT64, "K", "L") for name in ("input_ids", "attention_mask")],
        [_tensor("text_features", TensorProto.FLOAT, "K", DIM)],
        {"axis": np.array([1]), "waves": waves},
    )


def _image() -> bytes:
    """(K, 3, H, W) pixels -> (K, DIM): a map of the mean colour."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "map"], ["image_features"]),
    ]
    mixing = np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32)
    return _graph(
        nodes,
        [_tensor("pixels", TensorProto.FLOAT, "K", 3, _SIDE, _SIDE)],
        [_tensor("image_features", TensorProto.FLOAT, "K", DIM)],
        {"axes": np.array([2, 3]), "map": mixing},
    )


def _head() -> bytes:
    """Both features and which are there -> unit vectors; fused is the sum of both."""
    nodes: list[NodeProto] = []
    for name in ("text", "image"):
        nodes += [
            helper.make_node("Cast", [f"has_{name}"], [f"{name}_known"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{name}_known", "axis"], [f"{name}_mask"]),
            helper.make_node("Mul", [f"{name}_features", f"{name}_mask"], [f"{name}_kept"]),
            *_unit(f"{name}_kept", name),
        ]
    nodes += [helper.make_node("Add", ["text", "image"], ["both"]), *_unit("both", "fused")]
    return _graph(
        nodes,
        [_tensor(f"{name}_features", TensorProto.FLOAT, "K", DIM) for name in ("text", "image")]
        + [_tensor(f"has_{name}", TensorProto.BOOL, "K") for name in ("text", "image")],
        [_tensor(name, TensorProto.FLOAT, "K", DIM) for name in MODALITIES],
        {"axis": np.array([1]), "least": np.array(_TOLERANCE, dtype=np.float32)},
    )


def _unit(x: str, out: str) -> list[NodeProto]:
    return [
        helper.make_node("ReduceL2", [x, "axis"], [f"{x}_length"], keepdims=1),
        helper.make_node("Max", [f"{x}_length", "least"], [f"{x}_divisor"]),
        helper.make_node("Div", [x, f"{x}_divisor"], [out]),
    ]


def _tensor(name: str, kind: int, *shape: str | int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Mapping[str, npt.NDArray[Any]],
) -> bytes:
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "trivial", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    written: bytes = model.SerializeToString()
    return written


def _golden(models: Mapping[str, OnnxModel]) -> Golden:
    rng = np.random.default_rng(0)
    tokens = {"input_ids": rng.integers(1, 9, (2, 4)), "attention_mask": np.ones((2, 4), dtype=np.int64)}
    pixels = {"pixels": rng.normal(size=(2, 3, _SIDE, _SIDE)).astype(np.float32)}
    text, image = models["text"].run(tokens), models["image"].run(pixels)
    head = {**text, **image, "has_text": np.array([True, True]), "has_image": np.array([True, False])}
    return {"text": (tokens, text), "image": (pixels, image), "head": (head, models["head"].run(head))}
