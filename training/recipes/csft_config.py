"""The options of C-SFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contracts.errors import InvalidInput

Query = Literal["image", "fused"]


@dataclass(frozen=True)
class CsftConfig:
    """query: what stands for the query item, its fused vector or, as in eq 5, its picture.

    temperature_rate: the temperatures' own learning rate; before the head moves they settle alone. Else
    0.07 is too sharp for faint pairs, and the head flattens its cosines (towards collapse) instead.
    """

    query: Query = "fused"
    w_txt: float = 0.5
    w_img: float = 0.5
    temperature: float = 0.07
    dropout: float = 0.4
    steps: int = 400
    batch: int = 256
    learning_rate: float = 3e-4
    temperature_rate: float = 0.05
    weight_decay: float = 0.01
    warm_up: int = 50
    held_out: float = 0.05
    evaluated_pairs: int = 5_000
    evaluate_every: int = 50
    patience: int = 3

    def __post_init__(self) -> None:
        if self.query not in ("image", "fused"):
            raise InvalidInput("query", self.query, "must be image or fused")
        for name in ("batch", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "must be at least 1")
