"""What a worker's encode rate is measured against: the same graphs on the same items, in one bare loop.

One thread, batches of a fixed size, nothing but ONNX Runtime: no queue, no table, no checks. `whole` begins
with the pictures' bytes and the texts, `graphs` with tensors that are ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from contracts.bundle import Bundle
from contracts.encoder_spec import EncoderSpec, encoder_spec_from_json
from contracts.images import decode_image
from contracts.items import Item, pad_tokens, token_ids
from contracts.onnx_model import OnnxModel
from contracts.towers import Features, Tokens, encode_texts

BATCH = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BareRates:
    """Items per second."""

    whole: float
    graphs: float


@dataclass(frozen=True)
class _Batch:
    """tokens: of K texts; pixels: (K, 3, H, W) float32."""

    tokens: list[Tokens]
    pixels: Features


class BareLoop:
    """The graphs of an encoder bundle, opened. items: each with a text and a picture."""

    def __init__(self, bundle: Bundle, items: Sequence[Item], threads: int = 1) -> None:
        spec = encoder_spec_from_json(dict(bundle.manifest.content))
        self._spec: EncoderSpec = spec
        self._text, self._image, self._head = (
            OnnxModel(bundle.file(name), threads=threads)
            for name in (spec.text_graph, spec.image_graph, spec.head_graph)
        )
        self._tokenizer = Tokenizer.from_file(str(bundle.file(spec.tokenizer)))
        self._batches = [items[at : at + BATCH] for at in range(0, len(items), BATCH)]
        self._items = len(items)
        self.texts = [spec.template.render(item.text) for item in items]

    def measure(self, progress: Progress) -> BareRates:
        """Both rates over all items, the first batch run once before."""
        self._run(self._prepared(self._batches[0]))
        began = time.perf_counter()
        graphs_s = 0.0
        for n, items in enumerate(self._batches):
            batch = self._prepared(items)
            ready = time.perf_counter()
            self._run(batch)
            graphs_s += time.perf_counter() - ready
            progress(n + 1, len(self._batches))
        whole_s = time.perf_counter() - began
        return BareRates(self._items / whole_s, self._items / graphs_s)

    def encode_texts(self) -> Features:
        """All texts through tokens and the text graph alone -> (K, d_text)."""
        chunks = (self.texts[at : at + BATCH] for at in range(0, self._items, BATCH))
        return np.concatenate(
            [encode_texts(self._tokenizer, self._spec.max_tokens, self._text, chunk) for chunk in chunks]
        )

    def _prepared(self, items: Sequence[Item]) -> _Batch:
        texts = [self._spec.template.render(item.text) for item in items]
        pixels = [decode_image(item.image or b"", self._spec.image) for item in items]
        return _Batch(token_ids(self._tokenizer, texts, self._spec.max_tokens), np.stack(pixels))

    def _run(self, batch: _Batch) -> None:
        ids, mask = pad_tokens(batch.tokens)
        text = self._text.run({"input_ids": ids, "attention_mask": mask})
        image = self._image.run({self._spec.image_input: batch.pixels}, [self._spec.image_output])
        known = np.ones(len(ids), dtype=bool)
        features = {**text, "image_features": image[self._spec.image_output]}
        self._head.run({**features, "has_text": known, "has_image": known})
