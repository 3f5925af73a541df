"""A drawn log with three things to find, each of which another kind of ranker can see on new items.

The logit of a click adds, each standardised over the log,

    item        the item's own appeal                                an ID vector sees it, on warm items
    count       behaviours of the target's kind in text and in image    a histogram of similarities sees it
    when        (recent - old of its kind in text) - (the same in image)   needs age and both modalities

What is recent in text attracts and what is recent in image repels, so `when` keeps no trace in the number
of similar behaviours. Kinds are drawn for text and image independently; a vector shows its kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.codec import encode_records
from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema
from contracts.space import Modality, Space
from training.data.interactions import TEST, TRAIN, VAL
from training.data.samples import Samples

DIM = 16
_NEW_SHARE = 0.25
_NOISE = 0.15  # of a vector's entries beside its kind's
_SPLITS = (0.1, 0.2)  # shares of val and test

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PlantedOrderConfig:
    """item, count, when: standard deviations in the logit; 0 takes the thing out of the world."""

    requests: int = 4_000
    items: int = 300
    kinds: int = 5
    candidates: int = 4
    history_length: int = 16
    item: float = 1.0
    count: float = 1.0
    when: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("requests", "items", "kinds", "candidates"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "must be at least 1")
        if self.history_length < 2:
            raise InvalidInput(
                "history_length", self.history_length, "must be at least 2, a recent and an old half"
            )


@dataclass(frozen=True, eq=False)
class PlantedOrder:
    """records: (I,) of `space`, text and image; new: (I,) bool, candidates of the test split alone."""

    samples: Samples
    space: Space
    records: npt.NDArray[np.void]
    new: npt.NDArray[np.bool_]
    schema: FeatureSchema


def planted_order(config: PlantedOrderConfig | None = None) -> PlantedOrder:
    """Draw the world: equal configs give equal worlds."""
    config = config or PlantedOrderConfig()
    rng = np.random.default_rng(config.seed)
    space = Space("0" * 64, (Modality("text", DIM), Modality("image", DIM)))
    kinds = rng.integers(0, config.kinds, (2, config.items))  # by modality
    vectors = [_vectors(rng, kind, config.kinds) for kind in kinds]
    records = encode_records(
        vectors, np.ones(config.items, np.uint64), np.zeros((config.items, 0), np.uint32)
    )
    new = np.zeros(config.items, dtype=bool)
    new[rng.permutation(config.items)[: round(_NEW_SHARE * config.items)]] = True
    return PlantedOrder(
        samples=_samples(rng, config, kinds, new),
        space=space,
        records=records,
        new=new,
        schema=FeatureSchema(config.history_length, 16, ()),
    )


def _vectors(rng: np.random.Generator, kind: npt.NDArray[np.int64], kinds: int) -> npt.NDArray[np.float32]:
    drawn = rng.normal(size=(kinds, DIM))[kind] + _NOISE * rng.normal(size=(len(kind), DIM))
    unit: npt.NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _samples(
    rng: np.random.Generator,
    config: PlantedOrderConfig,
    kinds: npt.NDArray[np.int64],
    new: npt.NDArray[np.bool_],
) -> Samples:
    count, length = config.requests, config.history_length
    splits = np.full(count, TRAIN, dtype=np.int8)
    val, test = (round(share * count) for share in _SPLITS)
    splits[count - val - test :] = VAL
    splits[count - test :] = TEST
    histories = rng.integers(0, config.items, (count, length))  # oldest first
    warm = np.flatnonzero(~new)
    candidates = warm[rng.integers(0, len(warm), (count, config.candidates))]
    anything = rng.integers(0, config.items, (count, config.candidates))
    candidates[splits == TEST] = anything[splits == TEST]
    appeal = rng.normal(size=config.items)[candidates]
    alike = kinds[:, candidates][..., None] == kinds[:, histories][:, :, None, :]  # (2, R, N, T)
    recent = np.where(np.arange(length) >= length // 2, 1.0, -1.0)
    lean = alike @ recent  # (2, R, N)
    logit = (
        config.item * _standard(appeal)
        + config.count * _standard(alike.sum(axis=(0, 3)).astype(np.float64))
        + config.when * _standard(lean[0] - lean[1])
    )
    labels = (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return Samples(
        candidates=(candidates + 1).astype(np.int32),
        labels=labels,
        candidate_mask=np.ones(candidates.shape, dtype=bool),
        users=np.arange(count, dtype=np.int32),
        splits=splits,
        timestamps=np.arange(count, dtype=np.int64),
        requests=np.arange(count, dtype=np.int64),
        liked=(histories.reshape(-1) + 1).astype(np.int32),
        starts=np.arange(count, dtype=np.int64) * length,
        ends=np.arange(1, count + 1, dtype=np.int64) * length,
    )


def _standard(values: Doubles) -> Doubles:
    out: Doubles = (values - values.mean()) / values.std()
    return out
