"""Texts and pictures -> tower features, through the exported towers: the same code trains and serves.

Towers knows nothing of projections, items or spaces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.items import tokenise
from contracts.onnx_model import OnnxModel

Features = npt.NDArray[np.float32]


def encode_texts(tokenizer: Tokenizer, max_tokens: int, text: OnnxModel, texts: Sequence[str]) -> Features:
    """K texts -> (K, d_text) float32, by the text tower alone."""
    ids, mask = tokenise(tokenizer, texts, max_tokens)
    outputs = text.run({"input_ids": ids, "attention_mask": mask}, ["text_features"])
    features: Features = outputs["text_features"]
    return features


class Towers:
    """The two towers of an encoder, each batched on its own."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        text: OnnxModel,
        image: OnnxModel,
        image_input: str,
        image_output: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._text = text
        self._image = image
        self._image_input = image_input
        self._image_output = image_output

    def text_features(self, texts: Sequence[str]) -> Features:
        """K texts -> (K, d_text) float32."""
        return encode_texts(self._tokenizer, self._max_tokens, self._text, texts)

    def image_features(self, pixels: npt.NDArray[np.float32]) -> Features:
        """(K, 3, H, W) float32 -> (K, d_image) float32."""
        features: Features = self._image.run({self._image_input: pixels}, [self._image_output])[
            self._image_output
        ]
        return features
