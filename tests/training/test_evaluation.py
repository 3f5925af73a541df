from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema
from tests.training import tiny
from training.data.samples import Samples
from training.evaluation import METRICS, IdVectors, evaluate, predict, sigmoid
from training.item_table import item_table
from training.recipes.ranker import new_ranker
from training.vocabularies import fit_vocabularies

SAMPLES = tiny.samples()
SCHEMA = FeatureSchema(8, 4, fit_vocabularies(tiny.records(), tiny.SPACE.attributes))
TABLE = item_table(tiny.records(), np.ones(tiny.ITEMS, bool), tiny.NEW, SCHEMA)


def _pairs(rows: list[tuple[float, float]]) -> float | None:
    """AUC by counting pairs."""
    ahead = [s for y, s in rows if y == 1]
    behind = [s for y, s in rows if y == 0]
    if not ahead or not behind:
        return None
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(ahead, behind)]
    return sum(wins) / len(wins)


def _grouped(rows: list[tuple[int, float, float]]) -> float | None:
    total = weight = 0.0
    for key in {k for k, _, _ in rows}:
        group = [(y, s) for k, y, s in rows if k == key]
        value = _pairs(group)
        if value is not None:
            total += len(group) * value
            weight += len(group)
    return total / weight if weight else None


def _brute(
    samples: Samples, chosen: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]
) -> dict[str, object]:
    out: dict[str, object] = {}
    for name, wanted in (("all", (False, True)), ("warm", (False,)), ("new", (True,))):
        rows = [
            (
                int(samples.users[r]),
                int(samples.requests[r]),
                float(samples.labels[r, n]),
                float(logits[c, n]),
            )
            for c, r in enumerate(chosen)
            for n in range(samples.candidates.shape[1])
            if samples.candidate_mask[r, n] and bool(TABLE.new[samples.candidates[r, n]]) in wanted
        ]
        losses = [np.log1p(np.exp(-s if y else s)) for _, _, y, s in rows]
        out[name] = {
            "rows": len(rows),
            "auc": _pairs([(y, s) for _, _, y, s in rows]),
            "gauc_user": _grouped([(u, y, s) for u, _, y, s in rows]),
            "gauc_request": _grouped([(q, y, s) for _, q, y, s in rows]),
            "logloss": float(np.mean(losses)) if losses else None,
        }
    return out


def test_the_report_equals_counting_pairs() -> None:
    rng = np.random.default_rng(1)
    samples = dataclasses.replace(SAMPLES, requests=SAMPLES.requests // 2)  # requests that were cut in two
    chosen = rng.permutation(np.flatnonzero(samples.splits == 2))
    logits = rng.integers(-3, 4, (len(chosen), 3)).astype(np.float32)  # many ties
    report, brute = evaluate(logits, samples, chosen, TABLE.new), _brute(samples, chosen, logits)
    for group, wanted in brute.items():
        assert report[group] == pytest.approx(wanted, abs=1e-9), group
    assert report["all"]["rows"] == report["warm"]["rows"] + report["new"]["rows"]  # type: ignore[operator]
    assert report["new"]["rows"]


def test_what_cannot_be_measured_is_none() -> None:
    train = np.flatnonzero(SAMPLES.splits == 0)[:20]
    report = evaluate(np.zeros((20, 3), np.float32), SAMPLES, train, TABLE.new)
    assert report["new"] == {"rows": 0, **dict.fromkeys(METRICS)}
    assert report["all"]["auc"] == 0.5


def test_predictions_do_not_depend_on_the_batch() -> None:
    torch.set_num_threads(1)
    model = new_ranker("ciubm", tiny.SPACE, SCHEMA, seed=0)
    vectors = np.random.default_rng(0).normal(size=(len(TABLE), 4)).astype(np.float32)
    ids = IdVectors(vectors, ~TABLE.new, np.zeros(len(TABLE), np.float32))
    chosen = np.flatnonzero(SAMPLES.splits == 2)
    at_once = predict(model, SAMPLES, chosen, TABLE, ids)
    in_pieces = predict(model, SAMPLES, chosen, TABLE, ids, batch_rows=21)
    mask = SAMPLES.candidate_mask[chosen]
    assert np.allclose(at_once, in_pieces, atol=1e-5)
    assert not at_once[~mask].any()
    assert at_once[mask].std() > 0


def test_quantised_ids_are_near_and_not_equal() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32)
    served = IdVectors(vectors, np.ones(9, bool), np.zeros(9, np.float32)).quantised().vectors
    assert not np.array_equal(served, vectors)
    assert (np.abs(served - vectors) <= np.abs(vectors).max(1, keepdims=True) / 253).all()


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidInput, match="logits"):
        evaluate(np.zeros((2, 3), np.float32), SAMPLES, np.arange(3), TABLE.new)


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e4, 0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]
