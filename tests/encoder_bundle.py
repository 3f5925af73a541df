"""A small real encoder bundle: a byte-level BPE, a text tower, a convolutional picture tower and a head.

What a text says and what a picture shows moves its vector, so tests can tell items apart. The graphs are
exported once per process and dimension.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.export import Dim

from contracts.bundle import Bundle, seal, write_golden
from contracts.encoder_spec import MODALITIES, EncoderSpec
from contracts.guard import PROBES_FILE, Guard, choose_probes, write_guard
from contracts.images import ImagePreprocessing, decode_image
from contracts.items import AttributeField, TextTemplate, tokenise
from contracts.onnx_model import OnnxModel

Array = npt.NDArray[Any]
TEXT_DIM, IMAGE_DIM, SIDE, MAX_TOKENS = 12, 10, 16, 24
ATTRIBUTES = (AttributeField("genres", "categorical", 3), AttributeField("year", "numeric"))
TEMPLATE = TextTemplate(("title", "plot"))
PREPROCESSING = ImagePreprocessing(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ALL_TOKENS, ASCII_TOKENS = 257, 96  # the padding and one per byte; those of printable ASCII
_SPACE = "Ġ"  # how the byte-level alphabet writes it
_OPSET = 20
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


class TextTower(nn.Module):
    """Masked mean of token embeddings, then tanh of a linear map: (K, L) int64 twice -> (K, TEXT_DIM)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, TEXT_DIM)
        self.out = nn.Linear(TEXT_DIM, TEXT_DIM)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        out: Tensor = torch.tanh(self.out(mean))
        return out


class ImageTower(nn.Module):
    """One convolution and a linear map: (K, 3, SIDE, SIDE) float32 -> (K, IMAGE_DIM)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, kernel_size=4, stride=4)
        self.out = nn.Linear(8 * (SIDE // 4) ** 2, IMAGE_DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.out(torch.relu(self.convolution(pixels)).flatten(1))
        return out


class Head(nn.Module):
    """Features and which of them are there -> unit vectors text, image, fused; a missing one is zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.text = nn.Linear(TEXT_DIM, dim)
        self.image = nn.Linear(IMAGE_DIM, dim)
        self.fused = nn.Linear(2 * dim, dim)

    def forward(
        self, text_features: Tensor, image_features: Tensor, has_text: Tensor, has_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        text = _unit(self.text(text_features)) * has_text.unsqueeze(-1).to(torch.float32)
        image = _unit(self.image(image_features)) * has_image.unsqueeze(-1).to(torch.float32)
        return text, image, _unit(self.fused(torch.cat([text, image], dim=-1)))


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def picture(colour: tuple[int, int, int], *, side: int = 20, kind: str = "PNG") -> bytes:
    """A real picture: the colour, with a darker corner."""
    image = Image.new("RGB", (side, side), colour)
    image.paste(tuple(c // 3 for c in colour), (0, 0, side // 3, side // 3))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def make_encoder_bundle(
    directory: Path,
    dim: int = 16,
    *,
    seed: int = 0,
    template: TextTemplate = TEMPLATE,
    attributes: tuple[AttributeField, ...] = ATTRIBUTES,
    known_tokens: int = ALL_TOKENS,
) -> Bundle:
    """Seal a bundle in `directory` (created). Another seed is another encoder, hence another space.

    known_tokens: rows of the text tower's embedding; with fewer than ALL_TOKENS the graph itself raises
    on a text with an unknown token and takes its whole batch with it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    spec = EncoderSpec(
        dim=dim,
        template=template,
        max_tokens=MAX_TOKENS,
        image=PREPROCESSING,
        image_input="pixels",
        image_output="image_features",
        attributes=attributes,
    )
    tokenizer = byte_tokenizer()
    tokenizer.save(str(directory / spec.tokenizer))
    graphs = _graphs(dim, seed, known_tokens)
    files = {"text": spec.text_graph, "image": spec.image_graph, "head": spec.head_graph}
    for graph, name in files.items():
        (directory / name).write_bytes(graphs[graph])
    models = {graph: OnnxModel(directory / name) for graph, name in files.items()}
    golden = _golden(models, tokenizer)
    write_golden(directory, golden)
    write_guard(directory / PROBES_FILE, Guard(choose_probes(golden["head"][1], seed)))
    return seal(directory, "encoder", spec.to_json())


def byte_tokenizer() -> Tokenizer:
    """A byte-level BPE without merges: any text is tokens. The space and printable ASCII come first."""
    alphabet = sorted(ByteLevel.alphabet(), key=lambda c: (c != _SPACE and not c.isascii(), c))
    tokenizer = Tokenizer(BPE({"[PAD]": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return tokenizer


def _golden(
    models: Mapping[str, OnnxModel], tokenizer: Tokenizer
) -> dict[str, tuple[dict[str, Array], dict[str, Array]]]:
    ids, mask = tokenise(tokenizer, ["Heat. plot: a thief", "x"], MAX_TOKENS)
    pixels = np.stack([decode_image(picture(c), PREPROCESSING) for c in ((200, 30, 30), (10, 90, 250))])
    text_inputs = {"input_ids": ids, "attention_mask": mask}
    text = models["text"].run(text_inputs)
    image = models["image"].run({"pixels": pixels})
    head_inputs = {
        **text,
        **image,
        "has_text": np.array([True, True]),
        "has_image": np.array([True, False]),
    }
    return {
        "text": (text_inputs, text),
        "image": ({"pixels": pixels}, image),
        "head": (head_inputs, models["head"].run(head_inputs)),
    }


@cache
def _graphs(dim: int, seed: int, known_tokens: int) -> dict[str, bytes]:
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        text, image, head = TextTower(known_tokens), ImageTower(), Head(dim)
    finally:
        torch.set_rng_state(generator_state)
    rows, tokens = Dim("K", min=1), Dim("L", min=1)
    by_row = {0: rows}
    return {
        "text": _export(
            text,
            {
                "input_ids": torch.ones(2, 5, dtype=torch.int64),
                "attention_mask": torch.ones(2, 5, dtype=torch.int64),
            },
            ["text_features"],
            ({0: rows, 1: tokens}, {0: rows, 1: tokens}),
        ),
        "image": _export(image, {"pixels": torch.zeros(2, 3, SIDE, SIDE)}, ["image_features"], (by_row,)),
        "head": _export(
            head,
            {
                "text_features": torch.randn(2, TEXT_DIM),
                "image_features": torch.randn(2, IMAGE_DIM),
                "has_text": torch.tensor([True, True]),
                "has_image": torch.tensor([True, False]),
            },
            list(MODALITIES),
            (by_row,) * 4,
        ),
    }


def _export(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], shapes: tuple[dict[int, Dim], ...]
) -> bytes:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)  # they tell of optional packages that are absent
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=shapes,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    exported: bytes = program.model_proto.SerializeToString()
    return exported
