"""What int8 ID rows cost: the validation AUC with them beside the one with the trained float vectors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from contracts.errors import BrokenBundle, InvalidInput
from training.data.interactions import VAL
from training.data.samples import Samples
from training.evaluation import IdVectors, predict
from training.item_table import ItemTable
from training.loop import TrainedRanker
from training.metrics import auc


@dataclass(frozen=True, kw_only=True)
class Int8Gate:
    """most_change: of the AUC, either way.

    least_pairs: positive times negative rows that the split has to have for the gate to hold. int8 moves a
    logit by some half a percent of their spread, so the AUC of P positives moves by chance by about
    1.5e-3 / sqrt(P): at 100,000 pairs, a sixth of the gate; at 100, as much as the gate.
    """

    most_change: float = 5e-4
    least_pairs: int = 100_000

    def __post_init__(self) -> None:
        if not self.most_change >= 0:
            raise InvalidInput("int8.most_change", self.most_change, "must not be negative")
        if self.least_pairs < 1:
            raise InvalidInput("int8.least_pairs", self.least_pairs, "must be at least 1")


class Int8Change(NamedTuple):
    """On the validation split; the AUCs and their change are None where it lacks a class.

    gated: whether the split had enough pairs for the gate to hold.
    """

    auc_float: float | None
    auc_int8: float | None
    change: float | None
    pairs: int
    gated: bool

    def to_json(self, gate: Int8Gate) -> dict[str, Any]:
        return {**self._asdict(), **asdict(gate)}


def check_int8(trained: TrainedRanker, samples: Samples, items: ItemTable, gate: Int8Gate) -> Int8Change:
    """Raises BrokenBundle, naming the change, where it is more than the gate lets through."""
    chosen = np.flatnonzero(samples.splits == VAL)
    mask = samples.candidate_mask[chosen]
    labels = samples.labels[chosen][mask]
    positives = int((labels == 1).sum())
    pairs = positives * (len(labels) - positives)

    def measured(ids: IdVectors) -> float:
        return auc(labels, predict(trained.model, samples, chosen, items, ids)[mask])

    full, served = measured(trained.ids), measured(trained.ids.quantised())
    if math.isnan(full) or math.isnan(served):
        return Int8Change(None, None, None, pairs, False)
    change = Int8Change(full, served, served - full, pairs, pairs >= gate.least_pairs)
    if change.gated and not abs(served - full) <= gate.most_change:
        raise BrokenBundle(
            f"int8 ID rows change the validation AUC by {served - full:+.2g}, from {full:.5f} to "
            f"{served:.5f} over {pairs} pairs: more than {gate.most_change:g}"
        )
    return change
