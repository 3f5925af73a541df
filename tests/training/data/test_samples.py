"""Samples against a brute-force reading of the log, and leaks planted on purpose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidInput
from contracts.features import align_histories, assemble
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema
from tests.training.data.tables import dataset
from training.batches import make_batch
from training.data.dataset import Dataset
from training.data.interactions import TEST, TRAIN, VAL
from training.data.samples import MAX_CANDIDATES, Samples, build_samples

ITEMS, USERS = 7, 3


def history(samples: Samples, row: int) -> list[int]:
    """Catalogue rows, oldest first."""
    return [int(item) - 1 for item in samples.liked[samples.starts[row] : samples.ends[row]]]


@st.composite
def logs(draw: st.DrawFn) -> Dataset:
    """Requests of one user and split each, over few seconds so that ties abound."""
    rows = []
    for request in range(draw(st.integers(1, 12))):
        user, time = draw(st.integers(0, USERS - 1)), draw(st.integers(0, 6))
        split = draw(st.sampled_from([TRAIN, VAL, TEST]))
        for _ in range(draw(st.integers(1, 4))):
            item, label, later = (draw(st.integers(0, n)) for n in (ITEMS - 1, 1, 2))
            rows.append([user, item, time + later, label, request, split])
    rows.sort(key=lambda row: row[2])
    numbers: dict[int, int] = {}
    renumbered = [(*row[:4], numbers.setdefault(row[4], len(numbers)), row[5]) for row in rows]
    return dataset(renumbered, ITEMS, USERS)  # type: ignore[arg-type]


@given(logs(), st.sets(st.integers(0, ITEMS - 1), max_size=3), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_samples_equal_a_brute_force_reading(data: Dataset, new_rows: set[int], length: int) -> None:
    log = data.interactions
    new = np.isin(np.arange(ITEMS), list(new_rows))
    table = list(
        zip(
            log.users.tolist(),
            log.items.tolist(),
            log.timestamps.tolist(),
            log.labels.tolist(),
            log.requests.tolist(),
            log.splits.tolist(),
            strict=True,
        )
    )
    expected = []
    for request in sorted(set(log.requests.tolist())):
        rows = [row for row in table if row[4] == request]
        begin = min(row[2] for row in rows)
        shown = [(row[1], row[3]) for row in rows if row[5] == TEST or row[1] not in new_rows]
        past = [row[1] for row in table if row[0] == rows[0][0] and row[3] == 1 and row[2] < begin]
        if shown:
            expected.append((request, rows[0][0], rows[0][5], begin, shown, past[-length:]))
    if not expected:
        with pytest.raises(InvalidInput, match="leaves no candidate"):
            build_samples(data, new, length)
        return
    found = build_samples(data, new, length)
    read = []
    for row in range(len(found)):
        inside = found.candidate_mask[row]
        assert inside.tolist() == (found.candidates[row] > 0).tolist()
        assert not found.labels[row][~inside].any()
        shown = list(
            zip((found.candidates[row][inside] - 1).tolist(), found.labels[row][inside].tolist(), strict=True)
        )
        facts = (found.requests[row], found.users[row], found.splits[row], found.timestamps[row])
        read.append((*(int(f) for f in facts), shown, history(found, row)))
    assert read == expected
    assert found.candidates.shape[1] == max(len(shown) for *_, shown, _ in expected)
    assert (np.diff(found.timestamps) >= 0).all()


def test_planted_leaks_never_enter_a_history() -> None:
    rows = [
        (0, 1, 10, 1, 0, TRAIN),  # a like before: the only one that may enter
        (0, 2, 15, 0, 1, TRAIN),  # before, but not liked
        (1, 3, 19, 1, 2, TRAIN),  # before, another user's
        (0, 4, 20, 1, 3, TRAIN),  # the same second, another request
        (0, 5, 20, 1, 4, TRAIN),  # the candidate itself
        (0, 6, 21, 1, 5, TRAIN),  # the future
    ]
    data = dataset(rows, ITEMS, USERS)
    found = build_samples(data, np.zeros(ITEMS, dtype=bool), 10)
    target = int(np.flatnonzero(found.candidates[:, 0] == 5 + 1)[0])
    assert history(found, target) == [1]
    behaviours, mask = align_histories(found.liked, found.starts, found.ends, 3)
    assert behaviours[target].tolist() == [0, 0, 2]
    assert mask[target].tolist() == [False, False, True]


def test_a_requests_own_later_rows_stay_out_of_its_history() -> None:
    rows = [(0, 1, 10, 1, 0, TRAIN), (0, 2, 12, 1, 0, TRAIN), (0, 3, 13, 0, 1, TRAIN)]
    found = build_samples(dataset(rows, ITEMS, USERS), np.zeros(ITEMS, dtype=bool), 10)
    assert [history(found, row) for row in range(2)] == [[], [1, 2]]


def test_new_items_are_no_candidates_before_test_but_stay_in_histories() -> None:
    rows = [
        (0, 1, 10, 1, 0, TRAIN),
        (0, 2, 10, 0, 0, TRAIN),
        (0, 1, 11, 1, 1, VAL),  # left empty: dropped
        (0, 3, 12, 0, 2, TEST),
        (0, 1, 12, 1, 2, TEST),
    ]
    new = np.arange(ITEMS) == 1
    found = build_samples(dataset(rows, ITEMS, USERS), new, 10)
    assert found.candidates.tolist() == [[3, 0], [4, 2]]
    assert found.splits.tolist() == [TRAIN, TEST]
    assert history(found, 1) == [1, 1]


def test_long_requests_are_cut() -> None:
    size = 2 * MAX_CANDIDATES + 5
    rows = [(0, k % ITEMS, 10, k % 2, 0, TRAIN) for k in range(size)] + [(1, 0, 11, 1, 1, TEST)]
    found = build_samples(dataset(rows, ITEMS, USERS), np.zeros(ITEMS, dtype=bool), 4)
    assert found.candidates.shape == (4, MAX_CANDIDATES)
    assert found.candidate_mask.sum(axis=1).tolist() == [MAX_CANDIDATES, MAX_CANDIDATES, 5, 1]
    assert found.requests.tolist() == [0, 0, 0, 1]
    assert found.candidates[found.candidate_mask].tolist() == [row[1] + 1 for row in rows]


def test_arguments_are_checked() -> None:
    data = dataset([(0, 1, 10, 1, 0, TRAIN)], ITEMS, USERS)
    with pytest.raises(InvalidInput, match="history_length: must be at least 1"):
        build_samples(data, np.zeros(ITEMS, dtype=bool), 0)
    with pytest.raises(InvalidInput, match=r"new: must have shape \(7,\)"):
        build_samples(data, np.zeros(3, dtype=bool), 4)


def test_times_of_behaviours_give_the_gaps_that_serving_gives() -> None:
    rows = [
        (0, 1, 10, 1, 0, TRAIN),
        (0, 2, 11, 1, 1, TRAIN),
        (1, 3, 11, 1, 2, TRAIN),
        (0, 3, 4_000, 1, 3, TRAIN),
        (1, 1, 90_000, 0, 4, VAL),
        (0, 4, 90_000, 0, 5, TEST),
    ]
    schema = FeatureSchema(3, 4, time_gaps=True)
    found = build_samples(dataset(rows, ITEMS, USERS), np.zeros(ITEMS, dtype=bool), 3).read_by(schema)
    requests = [
        ScoreRequest(
            [str(found.candidates[r, 0])],
            [
                Behaviour(str(i), 1000 * at)
                for user, i, at, liked, *_ in rows
                if liked and user == found.users[r] and at < found.timestamps[r]
            ],
            timestamp_ms=1000 * int(found.timestamps[r]),
        )
        for r in range(len(found))
    ]
    served = assemble(requests, schema)
    batch = make_batch(found, np.arange(len(found)), 3)
    assert batch.gaps is not None
    assert np.array_equal(batch.gaps.numpy(), served.request_inputs["gaps"])
    assert np.array_equal(batch.behaviour_mask.numpy(), served.behaviour_mask)
    assert batch.gaps.numpy()[-1].tolist() == [17, 17, 17]
    assert len(np.unique(batch.gaps.numpy())) == 4
    assert make_batch(found.read_by(FeatureSchema(3, 4)), np.arange(2), 3).gaps is None


def test_gaps_need_exact_times() -> None:
    rows = [(0, 1, 10, 1, 0, TRAIN), (0, 2, 10, 0, 0, TRAIN)]
    data = dataset(rows, ITEMS, USERS)
    log = dataclasses.replace(data.interactions, imputed=data.interactions.labels == 0)
    found = build_samples(dataclasses.replace(data, interactions=log), np.zeros(ITEMS, dtype=bool), 3)
    with pytest.raises(InvalidInput, match=r"schema\.time_gaps: needs exact times"):
        found.read_by(FeatureSchema(3, 4, time_gaps=True))


def test_what_is_left_out_is_counted() -> None:
    rows = [
        (0, 1, 10, 1, 0, TRAIN),
        (0, 2, 10, 0, 0, TRAIN),
        (0, 1, 11, 1, 1, VAL),  # left empty
        (0, 3, 12, 0, 2, TEST),
        (1, 3, 12, 0, 3, TEST),
    ]
    found = build_samples(dataset(rows, ITEMS, USERS), np.arange(ITEMS) == 1, 10).report
    assert found == {
        "samples": 3,
        "samples_without_history": {"train": 1, "val": 0, "test": 1},
        "excluded_new_item_before_test": 2,
        "requests_left_empty": 1,
        "redrawn_cutoffs": 0,
    }


def test_some_samples_are_those_samples() -> None:
    rows = [(0, k % ITEMS, 10 + k, k % 2, k, TRAIN) for k in range(20)]
    found = build_samples(dataset(rows, ITEMS, USERS), np.zeros(ITEMS, dtype=bool), 4)
    chosen = np.array([17, 3, 11])
    some, all_ = (make_batch(s, c, 4) for s, c in ((found.take(chosen), np.arange(3)), (found, chosen)))
    assert np.array_equal(some.rows[some.behaviours], all_.rows[all_.behaviours])
    assert np.array_equal(some.labels, all_.labels)
    assert len(found.take(chosen)) == 3


def test_dtypes() -> None:
    found = build_samples(dataset([(0, 1, 10, 1, 0, TRAIN)], ITEMS, USERS), np.zeros(ITEMS, dtype=bool), 4)
    kinds = {name: str(a.dtype) for name, a in vars(found).items() if isinstance(a, np.ndarray)}
    assert kinds == {
        "candidates": "int32",
        "labels": "float32",
        "candidate_mask": "bool",
        "users": "int32",
        "splits": "int8",
        "timestamps": "int64",
        "requests": "int64",
        "liked": "int32",
        "starts": "int64",
        "ends": "int64",
        "liked_at": "int64",
    }
