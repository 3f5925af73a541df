"""Items -> tower features, by the exported graphs: what the head is trained on is what serving computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.errors import InvalidInput, TooLarge
from contracts.images import ImagePreprocessing, decode_image
from contracts.items import Item
from contracts.onnx_model import OnnxModel
from contracts.towers import Towers, encode_texts

Step = Callable[[int, int], None]  # (done, in all)
Rows = npt.NDArray[np.int64]
Array = npt.NDArray[np.float32]
_BATCH = 16  # larger ones leave the caches of a core


@dataclass(frozen=True, eq=False)
class Features:
    """Of I items: values (I, d) float32, zero rows where `present` (I,) bool is False."""

    values: Array
    present: npt.NDArray[np.bool_]


def text_features(
    texts: Sequence[str],
    rows: Rows,
    tokenizer: Tokenizer,
    max_tokens: int,
    model: OnnxModel,
    progress: Step,
) -> Features:
    """texts: I rendered texts, "" where an item has none; only `rows` are encoded, the others stay absent."""
    present = np.zeros(len(texts), dtype=bool)
    present[[row for row in rows.tolist() if texts[row]]] = True
    wanted = np.flatnonzero(present)
    # Texts of like length share a batch, which is padded to its longest.
    wanted = wanted[np.argsort([len(texts[row]) for row in wanted.tolist()], kind="stable")]
    values = np.zeros((len(texts), fixed_dim(model, "text_features")), dtype=np.float32)
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        values[batch] = encode_texts(tokenizer, max_tokens, model, [texts[row] for row in batch])
        progress(start + len(batch), len(wanted))
    return Features(values, present)


def decode_rows(items: Sequence[Item], rows: Rows, preprocessing: ImagePreprocessing) -> tuple[Rows, Array]:
    """The rows whose picture can be read (R,), and their pixels (R, 3, H, W) float32.

    A picture that cannot be read counts as none: one broken file must not end a training of hours.
    """
    good, pixels = [], []
    for row in rows:
        data = items[row].image
        if data is None:
            continue
        try:
            pixels.append(decode_image(data, preprocessing))
        except (InvalidInput, TooLarge):
            continue
        good.append(row)
    shape = (0, 3, preprocessing.height, preprocessing.width)
    stacked = np.stack(pixels) if pixels else np.zeros(shape, dtype=np.float32)
    return np.array(good, dtype=np.int64), stacked


def image_features(
    items: Sequence[Item],
    rows: Rows,
    preprocessing: ImagePreprocessing,
    towers: Towers,
    dim: int,
    progress: Step,
) -> Features:
    """dim: of the image tower. Only `rows` are encoded, the others stay absent."""
    values = np.zeros((len(items), dim), dtype=np.float32)
    present = np.zeros(len(items), dtype=bool)
    for start in range(0, len(rows), _BATCH):
        good, pixels = decode_rows(items, rows[start : start + _BATCH], preprocessing)
        if len(good):
            values[good] = towers.image_features(pixels)
            present[good] = True
        progress(min(start + _BATCH, len(rows)), len(rows))
    return Features(values, present)


def fixed_dim(model: OnnxModel, output: str) -> int:
    """The last dimension of an output, InvalidInput where it is free."""
    width = model.output_shapes[output][-1]
    if not isinstance(width, int):
        raise InvalidInput(output, width, "must have a fixed last dimension")
    return width
