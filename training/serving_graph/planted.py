"""Trained weights for benchmarks: a drawn world where a user likes items whose content is of some kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, encode_records
from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema
from contracts.space import Modality, Space
from training.data.interactions import TRAIN, VAL
from training.data.samples import Samples
from training.graph import Inputs
from training.item_table import ItemTable, item_table
from training.loop import TrainedRanker, TrainingConfig, train_ranker
from training.recipes.ranker import ID_DIM, new_ranker

_ITEMS, _KINDS, _USERS, _LIKES, _WIDTH, _DIM = 3_000, 24, 300, 64, 4, 128
_BATCH_ROWS = 256
_VALIDATION = 400  # samples
_TASTE = 0.8  # logits then spread about as far as those of real logs


@dataclass(frozen=True, eq=False)
class Planted:
    """A ranker trained for some steps, and what its inputs are made of. records: (I,); id_rows: (I+1,)."""

    trained: TrainedRanker
    space: Space
    schema: FeatureSchema
    records: Rows
    items: ItemTable
    id_rows: Rows

    def inputs(self, candidates: int, behaviours: int, seed: int) -> Inputs:
        """One request of distinct drawn items."""
        count = candidates + behaviours
        if not 0 < count < len(self.items):
            raise InvalidInput("candidates + behaviours", count, f"must be 1 to {len(self.items) - 1}")
        drawn = 1 + np.random.default_rng(seed).permutation(len(self.items) - 1)[:count]
        rows = np.concatenate([np.zeros(1, dtype=np.int64), drawn])
        ids = self.id_rows[rows]
        place = np.arange(1, count + 1, dtype=np.int32)[None]
        return {
            "codes": self.items.codes[rows],
            "inv_norm": self.items.inv_norm[rows],
            "attributes": self.items.attributes[rows],
            "attribute_values": self.items.attribute_values[rows],
            "id_codes": np.ascontiguousarray(ids["codes"]),
            "id_scale": np.ascontiguousarray(ids["scale"]),
            "id_known": ids["version"] != 0,
            "id_evidence": ids["evidence"].astype(np.float32),
            "candidates": np.ascontiguousarray(place[:, :candidates]),
            "behaviours": np.ascontiguousarray(place[:, candidates:]),
            "behaviour_mask": np.ones((1, behaviours), dtype=bool),
        }


def train_planted(model: str, *, history_length: int, steps: int, seed: int) -> Planted:
    """The ranker `model` of training.recipes.ranker: text, image and fused of 128, ID dim 16, no attributes.

    Histories of training are 64 long whatever `history_length` is.
    """
    rng = np.random.default_rng(seed)
    space = Space("0" * 64, tuple(Modality(name, _DIM) for name in ("text", "image", "fused")))
    schema = FeatureSchema(history_length, ID_DIM, ())
    kind = rng.integers(0, _KINDS, _ITEMS)
    vectors = []
    for _ in space.modalities:
        drawn = rng.normal(size=(_KINDS, _DIM))[kind] + rng.normal(size=(_ITEMS, _DIM))
        vectors.append((drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32))
    records = encode_records(vectors, np.ones(_ITEMS, np.uint64), np.zeros((_ITEMS, 0), np.uint32))
    everything = np.ones(_ITEMS, dtype=bool)
    items = item_table(records, everything, ~everything, schema)
    samples = _samples(rng, kind, steps * _BATCH_ROWS // _WIDTH)
    config = TrainingConfig(epochs=1, batch_rows=_BATCH_ROWS, seed=seed, threads=1)
    trained = train_ranker(new_ranker(model, space, schema, seed), samples, items, config)
    return Planted(trained, space, schema, records, items, trained.ids.rows())


def _samples(rng: np.random.Generator, kind: npt.NDArray[np.int64], train: int) -> Samples:
    """One liked item, of the user's two kinds with probability `_TASTE`, and three others."""
    count = train + _VALIDATION
    tastes = np.stack([rng.permutation(_KINDS)[:2] for _ in range(_USERS)])
    shuffled = rng.permutation(_ITEMS)
    of_kind = [shuffled[kind[shuffled] == k] for k in range(_KINDS)]
    liked = [rng.choice(of_kind[k], _LIKES // 2) for taste in tastes for k in taste]
    histories = rng.permuted(np.concatenate(liked).reshape(_USERS, _LIKES), axis=1)
    users = rng.integers(0, _USERS, count)
    candidates = rng.integers(0, _ITEMS, (count, _WIDTH))
    wanted = tastes[users, rng.integers(0, 2, count)]
    by_taste = rng.random(count) < _TASTE
    candidates[by_taste, 0] = [rng.choice(of_kind[k]) for k in wanted[by_taste]]
    labels = np.zeros((count, _WIDTH), dtype=np.float32)
    labels[:, 0] = 1
    splits = np.full(count, TRAIN, dtype=np.int8)
    splits[train:] = VAL
    return Samples(
        candidates=(candidates + 1).astype(np.int32),
        labels=labels,
        candidate_mask=np.ones((count, _WIDTH), dtype=bool),
        users=users.astype(np.int32),
        splits=splits,
        timestamps=np.arange(count, dtype=np.int64),
        requests=np.arange(count, dtype=np.int64),
        liked=(histories.reshape(-1) + 1).astype(np.int32),
        starts=(users * _LIKES).astype(np.int64),
        ends=((users + 1) * _LIKES).astype(np.int64),
    )
