"""What an encoder bundle holds beside the text tower: trained graphs as ONNX, golden rows of real items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from contracts.bundle import Golden
from contracts.encoder_spec import EncoderSpec
from contracts.guard import PROBES, choose_probes
from contracts.items import Item, tokenise
from contracts.onnx_model import OnnxModel
from training.item_features import Features, Rows, decode_rows
from training.models.encoders import ConvNext
from training.models.fusion import EncoderHead
from training.recipes.image_tower import PREPROCESSING
from training.recipes.named_tower import ImageTower
from training.tower_export import export_graph

_GOLDEN_ROWS = 4
_PROBE_POOL = 8  # times as many items are encoded: some lack a picture or a text
_HEAD_OUTPUTS = ("text", "image", "fused")


def export_image_tower(net: ConvNext, path: Path) -> tuple[ImageTower, float]:
    """pixels (K, 3, 64, 64) float32 -> features (K, d) float32; the tower and torch's distance from ONNX."""
    size = (PREPROCESSING.height, PREPROCESSING.width)
    pixels = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parity = export_graph(net, {"pixels": pixels}, ["features"], {"pixels": {0: "K"}}, path)
    return ImageTower(path, PREPROCESSING, "pixels", "features", net.dim), parity


def export_head(head: EncoderHead, text: Features, image: Features, rows: Rows, path: Path) -> float:
    """head.onnx, compared with torch on real features of `rows`; the distance between them."""
    inputs = {name: torch.from_numpy(array) for name, array in _head_inputs(text, image, rows).items()}
    return export_graph(head, inputs, _HEAD_OUTPUTS, {name: {0: "K"} for name in inputs}, path)


def golden_rows(text: Features, image: Features, rows: Rows) -> Rows:
    """Up to 4 of `rows`, those with both modalities first."""
    both = text.present[rows].astype(int) + image.present[rows]
    return rows[np.argsort(-both, kind="stable")][:_GOLDEN_ROWS]


def golden(
    items: Sequence[Item],
    texts: Sequence[str],
    rows: Rows,
    features: tuple[Features, Features],
    tokenizer: Tokenizer,
    spec: EncoderSpec,
    models: Mapping[str, OnnxModel],
) -> Golden:
    """Inputs of real items for all three graphs and what ONNX Runtime answers.

    Where none of the rows has a picture, the image graph gets a grey one.
    """
    ids, mask = tokenise(tokenizer, [texts[row] for row in rows], spec.max_tokens)
    _, pixels = decode_rows(items, rows, spec.image)
    if not len(pixels):
        pixels = np.zeros((1, 3, spec.image.height, spec.image.width), dtype=np.float32)
    text = {"input_ids": ids, "attention_mask": mask}
    image = {spec.image_input: pixels}
    head = _head_inputs(*features, rows)
    return {
        "text": (text, models["text"].run(text, ["text_features"])),
        "image": (image, models["image"].run(image, [spec.image_output])),
        "head": (head, models["head"].run(head, _HEAD_OUTPUTS)),
    }


def probes(
    text: Features, image: Features, rows: Rows, head: OnnxModel, seed: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Up to PROBES unit vectors per modality of items that were learnt from, as the exported head makes them.

    The guard measures against them what a row loses when it is stored (contracts.guard).
    """
    some = np.random.default_rng(seed).permutation(rows)[: _PROBE_POOL * PROBES]
    inputs = {
        "text_features": text.values[some],
        "image_features": image.values[some],
        "has_text": text.present[some],
        "has_image": image.present[some],
    }
    return choose_probes(head.run(inputs, _HEAD_OUTPUTS), seed)


def _head_inputs(text: Features, image: Features, rows: Rows) -> dict[str, npt.NDArray[Any]]:
    """Real features, at least 2 rows; the last one is shown without its picture."""
    rows = np.resize(rows, max(2, len(rows)))
    has_image = image.present[rows]
    has_image[-1] = False
    return {
        "text_features": text.values[rows],
        "image_features": image.values[rows],
        "has_text": text.present[rows],
        "has_image": has_image,
    }
