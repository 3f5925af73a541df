"""A tiny drawn log with a planted preference: a user of taste c likes items of kind c, and only those."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, encode_records
from contracts.items import AttributeField, attribute_slots
from contracts.space import Modality, Space
from training.data.samples import Samples

ITEMS, KINDS, USERS, LIKES = 60, 4, 48, 12
DIM = 16
SPACE = Space(
    "0" * 64,
    (Modality("text", DIM), Modality("image", DIM), Modality("fused", DIM)),
    (AttributeField("genres", "categorical", 2), AttributeField("year", "numeric")),
)
KIND = np.arange(ITEMS) % KINDS
NEW = np.arange(ITEMS) >= ITEMS - 8
ITEM_IDS = [f"item {i}" for i in range(ITEMS)]


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    out: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return out.astype(np.float32)


def records(seed: int = 0) -> Rows:
    """(ITEMS,) records whose vectors show the kind; items 3 and 4 lack an image, item 5 its year."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(KINDS, DIM))
    vectors = [unit(centres[KIND] + 0.3 * rng.normal(size=(ITEMS, DIM))) for _ in SPACE.modalities]
    vectors[1][3:5] = 0
    attributes = [
        attribute_slots(
            {"genres": f"g{i % 5}|g{i % 3}"} | ({"year": 1990.0 + i % 17} if i != 5 else {}), SPACE.attributes
        )
        for i in range(ITEMS)
    ]
    return encode_records(vectors, np.ones(ITEMS, dtype=np.uint64), np.stack(attributes))


def samples(seed: int = 0, requests_per_user: int = 9, width: int = 3) -> Samples:
    """Requests of one liked item and others of other kinds, padded at random; the last third is val and test.

    Train and val hold no new candidates; histories may, test does.
    """
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, KINDS, USERS)
    liked = np.concatenate([rng.choice(np.flatnonzero(c == KIND), LIKES) for c in taste]) + 1
    users = np.repeat(np.arange(USERS), requests_per_user)
    count = len(users)
    splits = np.tile(np.r_[np.zeros(requests_per_user - 3), 1, 2, 2], USERS).astype(np.int8)
    ends = users * LIKES + np.tile(np.arange(requests_per_user), USERS) % (LIKES + 1)
    starts = np.maximum(users * LIKES, ends - 8)
    candidates = np.zeros((count, width), dtype=np.int32)
    for r in range(count):
        allowed = np.flatnonzero(~NEW | (splits[r] == 2))
        same = KIND[allowed] == taste[users[r]]
        candidates[r, 0] = rng.choice(allowed[same]) + 1
        others = width - 1 - int(rng.random() < 0.2)
        candidates[r, 1 : 1 + others] = rng.choice(allowed[~same], others, replace=False) + 1
    mask = candidates > 0
    labels = np.zeros(candidates.shape, dtype=np.float32)
    labels[:, 0] = 1
    order = rng.permutation(count)  # users interleaved
    return Samples(
        candidates=candidates[order],
        labels=labels[order],
        candidate_mask=mask[order],
        users=users[order].astype(np.int32),
        splits=splits[order],
        timestamps=np.arange(count, dtype=np.int64),
        requests=np.arange(count, dtype=np.int64),
        liked=liked.astype(np.int32),
        starts=starts[order].astype(np.int64),
        ends=ends[order].astype(np.int64),
    )
