"""Tower features of a whole catalogue, which no draw of new items changes: computed once, kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from contracts.items import TextTemplate
from contracts.onnx_model import OnnxModel
from contracts.towers import Towers
from training.data.dataset import Dataset
from training.item_features import Features, image_features, text_features
from training.recipes.named_tower import named_tower
from training.recipes.text_tower import text_tower
from training.results.files import locked, read_arrays, write_arrays

MAX_TOKENS = 256
Stage = Callable[[str, int, int], None]  # (what, done, in all)


def tower_features(
    dataset: Dataset, image_tower: Path, cache: Path, *, threads: int, progress: Stage
) -> tuple[Features, Features]:
    """Text and image features of all I items: MiniLM on every text field, and the named image tower.

    cache: a directory; the file's name carries a digest of what the features were made from.
    """
    catalogue = dataset.catalogue
    template = TextTemplate(catalogue.text_fields)
    items = [catalogue.item(row) for row in range(len(catalogue))]
    texts = [template.render(item.text) for item in items]
    digest = hashlib.sha256(image_tower.read_bytes())
    for item, words in zip(items, texts, strict=True):
        digest.update(f"{item.item_id}\0{words}\0".encode())
        digest.update(item.image or b"")
    path = cache / f"towers-{MAX_TOKENS}-{digest.hexdigest()[:16]}.npz"
    with locked(cache / "towers.lock", wait=True):
        if not path.exists():
            rows = np.arange(len(items))
            tower = text_tower(cache)
            text = text_features(
                texts,
                rows,
                Tokenizer.from_file(str(tower.tokenizer)),
                MAX_TOKENS,
                text_model := OnnxModel(tower.graph, threads=threads),
                lambda done, total: progress("texts", done, total),
            )
            named = named_tower(image_tower)
            towers = Towers(
                Tokenizer.from_file(str(tower.tokenizer)),
                MAX_TOKENS,
                text_model,
                OnnxModel(named.graph, threads=threads),
                named.input,
                named.output,
            )
            image = image_features(
                items,
                rows,
                named.preprocessing,
                towers,
                named.dim,
                lambda done, total: progress("pictures", done, total),
            )
            write_arrays(
                path,
                text=text.values,
                has_text=text.present,
                image=image.values,
                has_image=image.present,
            )
    arrays = read_arrays(path)
    return Features(arrays["text"], arrays["has_text"]), Features(arrays["image"], arrays["has_image"])
