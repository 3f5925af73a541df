from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from tests.training.models.drawn import ATTRIBUTES, array, batch, spread
from training.models.items import AttributeTable, ItemEmbedding, drop_ids


def test_an_item_is_its_id_beside_the_mean_of_each_field() -> None:
    module = ItemEmbedding(ATTRIBUTES, id_dim=4, attribute_dim=3)
    spread(module)
    rows = batch().rows
    got = array(module(rows))
    table = array(module.attributes)
    absent_field = False
    for k, slots in enumerate(rows.attributes.numpy()):
        own = array(rows.id_vectors[k]) if rows.id_known[k] else array(module.out_of_vocabulary)
        fields = []
        for field in (slots[:2], slots[2:]):
            present = [table[i] for i in field if i > 0]
            absent_field |= not present
            fields.append(np.mean(present, axis=0) if present else np.zeros(3))
        np.testing.assert_allclose(got[k], np.concatenate([own, *fields]), rtol=1e-5, atol=1e-6)
    assert absent_field


def test_no_attributes_leave_the_id_alone() -> None:
    rows = batch().rows._replace(attributes=torch.zeros(30, 0, dtype=torch.int32))
    module = ItemEmbedding(AttributeTable(), id_dim=4, attribute_dim=3)
    assert module.width == 4
    assert module(rows).shape == (30, 4)


def test_only_unknown_items_train_the_out_of_vocabulary_vector() -> None:
    module = ItemEmbedding(ATTRIBUTES, id_dim=4, attribute_dim=3)
    rows = batch().rows._replace(id_vectors=batch().rows.id_vectors.requires_grad_())
    module(rows).sum().backward()
    unknown = ~rows.id_known
    assert rows.id_vectors.grad is not None
    assert module.out_of_vocabulary.grad is not None
    assert not rows.id_vectors.grad[unknown].any()
    assert bool(rows.id_vectors.grad[rows.id_known].all())
    assert module.out_of_vocabulary.grad.tolist() == [float(unknown.sum())] * 4


def test_id_dropout_forgets_about_the_rate_and_only_known_items() -> None:
    known = torch.arange(20_000) % 4 != 0
    kept = drop_ids(known, 0.1, torch.Generator().manual_seed(3))
    assert not (kept & ~known).any()
    assert float(kept.sum() / known.sum()) == pytest.approx(0.9, abs=0.01)
    again = drop_ids(known, 0.1, torch.Generator().manual_seed(3))
    assert torch.equal(kept, again)
    assert torch.equal(drop_ids(known, 0.0), known)
    with pytest.raises(InvalidInput, match="rate"):
        drop_ids(known, 1.0)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"attributes\.rows"):
        AttributeTable((), 0)
    with pytest.raises(InvalidInput, match=r"attributes\.slots"):
        AttributeTable((1, 0), 3)
