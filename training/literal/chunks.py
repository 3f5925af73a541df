"""The literal graph's memory: how many candidates it can take at once, and a run in chunks of that many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from contracts.features import GRAPH_OUTPUTS
from contracts.onnx_model import OnnxModel
from training.models.config import RankerConfig
from training.models.dmae import DmaeConfig
from training.models.simtier import SimTierConfig

MOST_BYTES = 6_000_000_000
_ROUNDING = 2  # ONNX Runtime's arena grows by doubling: measured 1.6 times the tensors at d = 32, T = 1,000


def literal_chunk(
    config: RankerConfig, requests: int, candidates: int, behaviours: int, most: int = MOST_BYTES
) -> int:
    """The candidates per request to give the literal graph at once, 1 to `candidates`.

    All, or even parts that need at most `most` bytes: the widest unit's float32 tensors of (B, N, T, ...).
    """
    item = config.id_dim + len(config.attributes.slots) * config.attribute_dim
    if config.item_content is not None:
        item += len(config.item_content.modalities) * config.item_content.dim
    widths = [8 * item + 2 * sum(config.din_hidden)]  # q, k, q - k, q * k and their concatenation
    for content in config.content:
        if isinstance(content, DmaeConfig):
            window = 2 * content.window_radius + 1
            widths.append(2 * window * content.dim + 12 * content.dim)  # keys and values of every window
        elif isinstance(content, SimTierConfig):
            widths.append(4 * content.tiers)
    each = 4 * max(widths) * requests * behaviours * _ROUNDING
    chunks = -(-candidates // max(1, most // each))
    return -(-candidates // max(1, chunks))


class InChunks:
    """A graph that takes `chunk` candidates of every request at a time; results as if it had taken all."""

    def __init__(self, model: OnnxModel, chunk: int) -> None:
        self.model = model
        self.chunk = chunk

    @classmethod
    def fitting(cls, model: OnnxModel, config: RankerConfig, inputs: Mapping[str, npt.NDArray[Any]]) -> Self:
        """In chunks that `inputs`, and any that are no larger, need."""
        b, n = inputs["candidates"].shape
        return cls(model, literal_chunk(config, b, n, inputs["behaviours"].shape[1]))

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Outputs of (B, N); `candidates` (B, N) is what is cut."""
        candidates = inputs["candidates"]
        parts = [
            self.model.run({**inputs, "candidates": candidates[:, start : start + self.chunk]}, GRAPH_OUTPUTS)
            for start in range(0, candidates.shape[1], self.chunk)
        ]
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
