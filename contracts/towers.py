"""Texts and pictures -> tower features, through the exported towers: the same code trains and serves.

Towers knows nothing of projections, items or spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.items import pad_tokens, token_ids, tokenise
from contracts.onnx_model import OnnxModel

Features = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


def encode_texts(tokenizer: Tokenizer, max_tokens: int, text: OnnxModel, texts: Sequence[str]) -> Features:
    """K texts -> (K, d_text) float32, by the text tower alone."""
    return _features(text, *tokenise(tokenizer, texts, max_tokens))


def _features(text: OnnxModel, ids: Tokens, mask: Tokens) -> Features:
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
        self._tokenising = Lock()  # truncation and padding are settings of the one tokeniser
        self._max_tokens = max_tokens
        self._text = text
        self._image = image
        self._image_input = image_input
        self._image_output = image_output

    def text_features(self, texts: Sequence[str]) -> Features:
        """K texts -> (K, d_text) float32."""
        return self.token_features(self.tokens(texts))

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """K texts -> the token ids of each (L_k,) int64. May run while another batch is in a tower."""
        with self._tokenising:
            return token_ids(self._tokenizer, texts, self._max_tokens)

    def token_features(self, tokens: Sequence[Tokens]) -> Features:
        """K rows of token ids -> (K, d_text) float32."""
        return _features(self._text, *pad_tokens(tokens))

    def image_features(self, pixels: npt.NDArray[np.float32]) -> Features:
        """(K, 3, H, W) float32 -> (K, d_image) float32."""
        features: Features = self._image.run({self._image_input: pixels}, [self._image_output])[
            self._image_output
        ]
        return features
