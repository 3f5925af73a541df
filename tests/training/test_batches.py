from __future__ import annotations

import dataclasses

import numpy as np
import torch

from contracts.features import FeatureSchema, align_histories
from tests.training import tiny
from training.batches import gather, items_shown, make_batch
from training.item_table import item_table
from training.recipes.ranker import new_ranker
from training.vocabularies import fit_vocabularies

HISTORY = 8
SAMPLES = tiny.samples()
SCHEMA = FeatureSchema(HISTORY, 4, fit_vocabularies(tiny.records(), tiny.SPACE.attributes))
TABLE = item_table(tiny.records(), np.ones(tiny.ITEMS, bool), tiny.NEW, SCHEMA)


def test_a_batch_over_unique_rows_scores_as_the_whole_table_does() -> None:
    torch.set_num_threads(1)
    chosen = np.arange(5, 37)
    model = new_ranker("dmae", tiny.SPACE, SCHEMA, seed=3).eval()
    vectors = torch.randn(len(TABLE), 4, generator=torch.Generator().manual_seed(0))
    known = ~TABLE.new
    batch = make_batch(SAMPLES, chosen, HISTORY)
    behaviours, mask = align_histories(SAMPLES.liked, SAMPLES.starts[chosen], SAMPLES.ends[chosen], HISTORY)
    everything = np.arange(len(TABLE), dtype=np.int32)
    with torch.inference_mode():
        small = model(
            gather(TABLE, batch.rows, vectors[torch.from_numpy(batch.rows).long()], known),
            batch.candidates,
            batch.behaviours,
            batch.behaviour_mask,
        ).logit
        whole = model(
            gather(TABLE, everything, vectors, known),
            torch.from_numpy(SAMPLES.candidates[chosen]),
            torch.from_numpy(behaviours),
            torch.from_numpy(mask),
        ).logit
    assert torch.allclose(small[batch.candidate_mask], whole[batch.candidate_mask], atol=1e-6, rtol=0)
    assert len(batch.rows) == len(set(batch.rows.tolist())) < len(TABLE)
    assert batch.rows[0] == 0


def test_a_batch_points_at_the_samples_own_items() -> None:
    chosen = np.array([7, 3, 100])
    batch = make_batch(SAMPLES, chosen, HISTORY)
    width = batch.candidates.shape[1]
    assert np.array_equal(batch.rows[batch.candidates.numpy()], SAMPLES.candidates[chosen, :width])
    for b, r in enumerate(chosen):
        history = batch.rows[batch.behaviours[b].numpy()][batch.behaviour_mask[b].numpy()]
        assert np.array_equal(history, SAMPLES.liked[SAMPLES.starts[r] : SAMPLES.ends[r]][-HISTORY:])


def test_shapes_follow_the_longest_sample_and_never_vanish() -> None:
    short = np.flatnonzero(SAMPLES.ends == SAMPLES.starts)[:2]
    narrow = dataclasses.replace(SAMPLES, candidate_mask=SAMPLES.candidate_mask & (np.arange(3) < 1)[None, :])
    batch = make_batch(narrow, short, HISTORY)
    assert batch.behaviours.shape == (2, 1)
    assert not batch.behaviour_mask.any()
    assert batch.candidates.shape == (2, 1)
    assert make_batch(SAMPLES, np.arange(60), 3).behaviours.shape == (60, 3)


def test_items_shown_against_a_loop() -> None:
    for split, history in ((0, HISTORY), (1, 2), (2, 1)):
        wanted = set()
        for r in np.flatnonzero(SAMPLES.splits == split):
            wanted |= set(SAMPLES.candidates[r].tolist())
            wanted |= set(SAMPLES.liked[SAMPLES.starts[r] : SAMPLES.ends[r]][-history:].tolist())
        shown = items_shown(SAMPLES, split, history, len(TABLE))
        assert set(np.flatnonzero(shown).tolist()) == wanted - {0}
