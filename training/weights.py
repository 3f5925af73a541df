"""What a ranker is trained on from: its float32 weights and ID vectors, one safetensors file in its bundle.

The graph and the int8 ID rows of a bundle serve; they have lost what an optimiser needs. Adam's moments are
not kept: the weights are those of the best validation, the moments those of the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contracts.errors import InvalidInput
from training.checkpoints import below, load_checkpoint, save_checkpoint, under
from training.loop import TrainedRanker

WEIGHTS = "weights.safetensors"
_KIND = "ranker weights"


@dataclass(frozen=True, eq=False)
class Weights:
    """model: its state dict; ID vectors of R items, whether this bundle's ID rows hold them or its base's."""

    model: dict[str, Tensor]
    item_ids: list[str]
    vectors: npt.NDArray[np.float32]  # (R, d)
    evidence: npt.NDArray[np.float32]  # (R,) log1p of the training examples behind each


@dataclass(frozen=True, eq=False)
class Overlay:
    """base: name of the full ID table that lies below; changed: (I+1,) bool, the rows that differ from it."""

    base: str
    changed: npt.NDArray[np.bool_]


def write_weights(path: Path, trained: TrainedRanker, item_ids: Sequence[str]) -> None:
    """item_ids: (I,), of the rows 1 to I of the ID table. Only the items that have an ID row are written."""
    known = np.flatnonzero(trained.ids.known)
    names = [item_ids[row - 1].encode() for row in known.tolist()]
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    tensors = {
        **below("model", trained.model.state_dict()),
        "ids/names": torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy()),
        "ids/ends": torch.from_numpy(ends),
        "ids/vectors": torch.from_numpy(trained.ids.vectors[known]),
        "ids/evidence": torch.from_numpy(trained.ids.evidence[known]),
    }
    save_checkpoint(path, tensors, {"kind": _KIND})


def read_weights(path: Path) -> Weights:
    """`write_weights` back. InvalidInput, UnknownVersion."""
    tensors, state = load_checkpoint(path)
    if state.get("kind") != _KIND:
        raise InvalidInput("weights", str(path), "is not a file of ranker weights")
    names, ends = tensors["ids/names"].numpy().tobytes(), tensors["ids/ends"].tolist()
    return Weights(
        model=under("model", tensors),
        item_ids=[names[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)],
        vectors=tensors["ids/vectors"].numpy(),
        evidence=tensors["ids/evidence"].numpy(),
    )
