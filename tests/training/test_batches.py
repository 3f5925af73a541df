from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from contracts.codec import tombstones
from contracts.errors import InvalidInput
from contracts.features import align_histories
from contracts.schema import FeatureSchema
from tests.training import tiny
from training.batches import gather, id_evidence, items_shown, make_batch
from training.evaluation import IdVectors, predict
from training.item_table import Versions, item_table, version_table
from training.loop import TrainingConfig, train_ranker
from training.models.view import Requests
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
    evidence = np.zeros(len(TABLE), np.float32)
    batch = make_batch(SAMPLES, chosen, HISTORY)
    behaviours, mask = align_histories(SAMPLES.liked, SAMPLES.starts[chosen], SAMPLES.ends[chosen], HISTORY)
    everything = np.arange(len(TABLE), dtype=np.int32)
    with torch.inference_mode():
        small = model(
            gather(TABLE, batch.rows, vectors[torch.from_numpy(batch.rows).long()], known, evidence),
            batch.requests,
        ).logit
        whole = model(
            gather(TABLE, everything, vectors, known, evidence),
            Requests(
                torch.from_numpy(SAMPLES.candidates[chosen]),
                torch.from_numpy(behaviours),
                torch.from_numpy(mask),
            ),
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


def versioned(changed_s: int, deleted_s: int) -> tuple[Versions, np.ndarray, np.ndarray]:
    """All items from the start; items 0 to 9 change later, 10 to 14 go later. Old and new records."""
    old, new = tiny.records(0), tiny.records(5)
    dead = tombstones(tiny.SPACE.dtype, np.full(5, 9, np.uint64))
    items = np.r_[np.arange(tiny.ITEMS), np.arange(10), np.arange(10, 15)]
    since = np.r_[np.zeros(tiny.ITEMS), np.full(10, changed_s * 1000), np.full(5, deleted_s * 1000)]
    order = np.lexsort((since, items))
    rows = np.concatenate([old, new[:10], dead])[order]
    return Versions(rows, items[order].astype(np.int32), since[order].astype(np.int64)), old, new


def test_each_sample_reads_the_content_of_its_own_time() -> None:
    changed, deleted = 100, 200
    found, old, new = versioned(changed, deleted)
    table = version_table(found, tiny.NEW, SCHEMA, "time")
    chosen = np.arange(40, 300)
    batch = make_batch(SAMPLES, chosen, HISTORY, table)
    known = ~table.new
    vectors = torch.randn(len(table), 4, generator=torch.Generator().manual_seed(0))
    rows = gather(
        table,
        batch.rows,
        vectors[torch.from_numpy(batch.rows).long()],
        known,
        id_evidence(SAMPLES, len(table)),
        batch.versions,
    )
    assert len(batch.content) > len(batch.rows) == len(set(batch.rows.tolist()))
    assert rows.codes.shape[0] == len(batch.content) == len(batch.items)
    assert torch.equal(rows.id_vectors, vectors[torch.from_numpy(batch.items).long()])
    assert np.array_equal(rows.id_known.numpy(), known[batch.items])
    seen = {"old": 0, "new": 0, "gone": 0}
    for b, sample in enumerate(chosen):
        places = np.concatenate([batch.candidates[b].numpy(), batch.behaviours[b].numpy()])
        plain = make_batch(SAMPLES, chosen, HISTORY)
        wanted = np.concatenate([plain.rows[plain.candidates[b]], plain.rows[plain.behaviours[b]]])
        assert np.array_equal(batch.items[places], wanted)
        for place, item in zip(places, wanted - 1, strict=True):
            at = SAMPLES.timestamps[sample]
            if item < 0 or (10 <= item < 15 and at >= deleted):
                seen["gone"] += item >= 0
                assert not rows.inv_norm[place].any()
                assert not rows.attributes[place].any()
            else:
                late = item < 10 and at >= changed
                seen["new" if late else "old"] += 1
                assert np.array_equal(rows.codes[place].numpy(), (new if late else old)["codes"][item])
    assert min(seen.values()) > 20


def test_a_table_of_versions_is_never_read_as_if_it_had_one() -> None:
    table = version_table(versioned(100, 200)[0], tiny.NEW, SCHEMA, "time")
    batch = make_batch(SAMPLES, np.arange(5), HISTORY)
    with pytest.raises(InvalidInput, match="versions: must be given"):
        gather(
            table, batch.rows, torch.zeros(len(batch.rows), 4), ~table.new, np.zeros(len(table), np.float32)
        )


def test_versions_that_never_change_train_as_a_plain_table_does() -> None:
    records = tiny.records()
    same = Versions(
        np.repeat(records, 2),
        np.repeat(np.arange(tiny.ITEMS), 2).astype(np.int32),
        np.tile([-1, 200_000], tiny.ITEMS),
    )
    table = version_table(same, tiny.NEW, SCHEMA, "time")
    config = TrainingConfig(epochs=1, batch_rows=60, threads=1)
    one, two = (
        train_ranker(new_ranker("ciubm", tiny.SPACE, SCHEMA, seed=1), SAMPLES, t, config)
        for t in (TABLE, table)
    )
    np.testing.assert_allclose(one.ids.vectors, two.ids.vectors, atol=2e-4)
    chosen = np.flatnonzero(SAMPLES.splits == 2)
    ids = IdVectors(one.ids.vectors, one.ids.known, one.ids.evidence)
    plain, joined = (predict(one.model, SAMPLES, chosen, t, ids) for t in (TABLE, table))
    np.testing.assert_allclose(plain, joined, atol=1e-5)
