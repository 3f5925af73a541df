"""No history tells a label: leaks planted on purpose, and a probe that finds each where it is let in."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.training.data.tables import dataset
from training.batches import make_batch
from training.data.cutoffs import own_cutoffs
from training.data.dataset import Dataset
from training.data.interactions import TEST, TRAIN, VAL
from training.data.samples import Samples, build_samples
from training.metrics import auc

USERS, ITEMS, EACH, LENGTH = 60, 400, 60, 12
NOTHING = 0.04  # how far from 0.5 an AUC of some 1,700 rows of either label may lie by chance


def listing(seed: int) -> Dataset:
    """Users like a random half of what they see, in listing order; times of what they dislike are lost.

    Each train row that is not liked gets the time of a like of the same user: what movielens1m_posters'
    ratings.parquet does. Neighbours in the listing are alike, and nobody has a taste.
    """
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = []
    for user in range(USERS):
        seen = np.sort(rng.permutation(ITEMS)[: EACH + 8])
        liked = rng.random(len(seen)) < 0.5
        liked[:2] = liked[-4:-2] = liked[-2:] = (True, False)
        split = np.full(len(seen), TRAIN)
        split[-4:-2], split[-2:] = VAL, TEST
        times = 1_000 * user + 10 * np.arange(len(seen))
        lost = ~liked & (split == TRAIN)
        times[lost] = rng.choice(times[liked & (split == TRAIN)], lost.sum())
        rows += [
            [user, int(i), int(t), int(k), 0, int(s)]
            for i, t, k, s in zip(seen, times, liked, split, strict=True)
        ]
    table = np.array(sorted(rows, key=lambda row: row[2]))
    keys = table[:, 0] * 10**7 + table[:, 2]
    order = np.unique(keys, return_index=True, return_inverse=True)
    table[:, 4] = np.argsort(np.argsort(order[1]))[order[2]]
    data = dataset([tuple(row) for row in table.tolist()], ITEMS, USERS)
    log = data.interactions
    return dataclasses.replace(
        data, interactions=dataclasses.replace(log, imputed=(log.labels == 0) & (log.splits == TRAIN))
    )


def candidates(samples: Samples, split: int) -> tuple[npt.NDArray[Any], ...]:
    """Of each candidate of a split: label, item, its request's history (K, LENGTH) and how long it is."""
    chosen = np.flatnonzero(samples.splits == split)
    batch = make_batch(samples, chosen, LENGTH)
    sample, place = np.nonzero(batch.candidate_mask.numpy())
    history = np.where(batch.behaviour_mask, batch.rows[batch.behaviours.numpy()], -(10**6))[sample]
    item = samples.candidates[chosen][sample, place]
    return batch.labels.numpy()[sample, place], item, history, batch.behaviour_mask.numpy().sum(1)[sample]


def probes(samples: Samples, split: int = TRAIN) -> dict[str, float]:
    """AUC of what histories could say: likeness to the last five, the item itself, the length."""
    label, item, history, length = candidates(samples, split)
    near = -np.abs(history[:, -5:] - item[:, None]).min(1)
    itself = (history == item[:, None]).any(1)
    return {
        "near": auc(label, near.astype(np.float32)),
        "itself": auc(label, itself.astype(np.float32)),
        "length": auc(label, length.astype(np.float32)),
    }


@pytest.fixture(scope="module")
def data() -> Dataset:
    return listing(0)


@pytest.fixture(scope="module")
def cured(data: Dataset) -> Samples:
    return build_samples(data, np.zeros(ITEMS, bool), LENGTH)


def test_no_probe_finds_the_label(cured: Samples) -> None:
    for name, found in probes(cured).items():
        assert abs(found - 0.5) < NOTHING, name


def test_the_shortcut_of_imputed_times_is_there_without_the_cure(data: Dataset) -> None:
    as_they_are = dataclasses.replace(data, interactions=dataclasses.replace(data.interactions, imputed=None))
    shortcut = build_samples(as_they_are, np.zeros(ITEMS, bool), LENGTH)
    assert probes(shortcut)["near"] > 0.6


def test_a_target_left_in_its_own_history_is_found(cured: Samples) -> None:
    assert cured.skips is not None
    leaking = dataclasses.replace(cured, skips=np.full_like(cured.skips, -1))
    assert probes(leaking)["itself"] > 0.55


def test_a_hole_is_found(cured: Samples) -> None:
    assert cured.skips is not None
    # the target left out, and nothing in its place: full histories alone, where every one should be as long
    full = np.flatnonzero(
        (cured.ends - cured.starts - (cured.skips >= 0) == LENGTH) & (cured.splits == TRAIN)
    )
    label, _, _, length = candidates(cured.take(full), TRAIN)
    assert (length == LENGTH).all()
    holed = dataclasses.replace(cured, starts=cured.starts + (cured.skips >= 0)).take(full)
    label, _, _, length = candidates(holed, TRAIN)
    assert auc(label, -length.astype(np.float32)) > 0.6


def test_likes_of_the_same_second_and_later_are_found(data: Dataset, cured: Samples) -> None:
    exact = dataclasses.replace(data, interactions=dataclasses.replace(data.interactions, imputed=None))
    samples = build_samples(exact, np.zeros(ITEMS, bool), LENGTH)
    assert probes(samples, TEST)["itself"] == 0.5
    log = exact.interactions
    bounds = np.searchsorted(np.sort(log.users[log.labels == 1]), samples.users, side="right")
    leaking = dataclasses.replace(samples, ends=np.minimum(samples.ends + 1, bounds))
    assert probes(leaking, TEST)["itself"] > 0.9


def test_redrawn_histories_are_the_others_first_likes(data: Dataset, cured: Samples) -> None:
    log = data.interactions
    for row in np.flatnonzero((cured.labels[:, 0] == 1) & (cured.splits == TRAIN)):
        user, target = int(cured.users[row]), int(cured.candidates[row, 0]) - 1
        mine = (log.users == user) & (log.labels == 1)
        before = int((log.timestamps[mine] < cured.timestamps[row]).sum())
        others = [i for i in log.items[mine].tolist() if i != target]
        batch = make_batch(cured, np.array([row]), LENGTH)
        history = batch.rows[batch.behaviours[0].numpy()][batch.behaviour_mask[0].numpy()] - 1
        assert history.tolist() == others[:before][-LENGTH:]
        assert cured.timestamps[row] in log.timestamps[mine & (log.splits == TRAIN)]


def test_other_splits_and_other_rows_stay_as_they_are(data: Dataset, cured: Samples) -> None:
    own = own_cutoffs(data.interactions)
    kept = cured.splits != TRAIN
    assert cured.skips is not None
    assert (cured.skips[kept] == -1).all()
    assert sorted(cured.timestamps[kept]) == sorted(
        own.asked[np.unique(data.interactions.requests[data.interactions.splits != TRAIN])]
    )
    assert cured.candidate_mask.sum() == len(data.interactions)
    assert cured.report["redrawn_cutoffs"] == int(
        ((data.interactions.labels == 1) & (data.interactions.splits == TRAIN)).sum()
    )
    assert (np.diff(cured.timestamps) >= 0).all()
    again = build_samples(data, np.zeros(ITEMS, bool), LENGTH)
    other = build_samples(data, np.zeros(ITEMS, bool), LENGTH, seed=1)
    assert np.array_equal(again.ends, cured.ends)
    assert not np.array_equal(other.ends, cured.ends)


def test_a_like_of_an_item_liked_twice_keeps_its_time() -> None:
    rows = [
        (0, 1, 10, 1, 0, TRAIN),
        (0, 2, 20, 1, 1, TRAIN),
        (0, 1, 30, 1, 2, TRAIN),
        (0, 3, 30, 0, 2, TRAIN),
    ]
    data = dataset(rows, 4, 1)
    imputed = data.interactions.labels == 0
    data = dataclasses.replace(data, interactions=dataclasses.replace(data.interactions, imputed=imputed))
    for seed in range(5):
        found = build_samples(data, np.zeros(4, bool), 8, seed=seed)
        assert found.report["redrawn_cutoffs"] == 1
        times = {int(c): int(t) for c, t in zip(found.candidates[:, 0], found.timestamps, strict=True)}
        assert times[2] in (10, 30)
