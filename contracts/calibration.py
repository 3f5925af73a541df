"""How a ranker's logit becomes the score that is served: a probability that means it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid(scale * logit + shift + log(negative_sampling_rate)), in this order:

    1. scale > 0 and shift: the logit becomes that of the label in a log sampled as the training log was
       (Platt 1999).
    2. negative_sampling_rate w in (0, 1], the share of the negatives that the log has kept: a sampled q
       means p = q / (q + (1 - q) / w) where nothing was dropped (He et al. 2014, 6.3): log(w) on the logit.

    The ranking stays as it was, ties that rounding makes aside.
    """

    scale: float = 1.0
    shift: float = 0.0
    negative_sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise InvalidInput("calibration.scale", self.scale, "must be positive and finite")
        if not math.isfinite(self.shift):
            raise InvalidInput("calibration.shift", self.shift, "must be finite")
        if not 0 < self.negative_sampling_rate <= 1:
            where = "calibration.negative_sampling_rate"
            raise InvalidInput(where, self.negative_sampling_rate, "must be in (0, 1]")

    @property
    def offset(self) -> float:
        """What is added to scale * logit: both steps' shifts."""
        return self.shift + math.log(self.negative_sampling_rate)

    @property
    def changes_nothing(self) -> bool:
        return (self.scale, self.offset) == (1.0, 0.0)

    def scores(self, logits: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Raw logits of any shape -> the scores that serve them, without overflow."""
        z = self.scale * logits.astype(np.float64) + self.offset
        e = np.exp(-np.abs(z))
        return np.where(z >= 0, 1 / (1 + e), e / (1 + e))

    def to_json(self) -> dict[str, float]:
        return {
            "scale": self.scale,
            "shift": self.shift,
            "negative_sampling_rate": self.negative_sampling_rate,
        }


UNCALIBRATED = Calibration()


def calibration_from_json(document: Mapping[str, Any]) -> Calibration:
    """`Calibration.to_json()` back. Raises InvalidInput; KeyError, TypeError, ValueError where malformed."""
    return Calibration(
        float(document["scale"]), float(document["shift"]), float(document["negative_sampling_rate"])
    )
