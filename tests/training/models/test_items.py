from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from tests.training.models.drawn import ATTRIBUTES, MODALITIES, array, batch, layers, spread
from training.models.columns import AttributeTable
from training.models.items import ItemContentConfig, ItemEmbedding, drop_ids


def test_an_item_is_its_id_beside_the_mean_of_each_field() -> None:
    module = ItemEmbedding(ATTRIBUTES, id_dim=4, attribute_dim=3)
    spread(module)
    rows = batch().rows
    got = array(module(rows))
    assert module.attributes is not None
    table = array(module.attributes.table)
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


def test_an_id_counts_by_its_evidence() -> None:
    """v = (n x + n_0 o) / (n + n_0), and o alone where the ID is not known."""
    module = ItemEmbedding(AttributeTable(), id_dim=4, attribute_dim=3, id_trust=True)
    spread(module)
    rows = batch().rows
    assert module.log_doubt is not None
    doubt = np.exp(float(module.log_doubt.detach()))
    assert rows.id_evidence is not None
    n = np.expm1(array(rows.id_evidence))[:, None] * rows.id_known.numpy()[:, None]
    wanted = (n * array(rows.id_vectors) + doubt * array(module.out_of_vocabulary)) / (n + doubt)
    np.testing.assert_allclose(array(module(rows)), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInput, match="id_evidence"):
        module(rows._replace(id_evidence=None))


def test_scaled_numbers_multiply_their_rows() -> None:
    columns = AttributeTable((2, 1), 9, scaled=True)
    module = ItemEmbedding(columns, id_dim=4, attribute_dim=3)
    spread(module)
    rows = batch().rows
    assert module.attributes is not None
    assert rows.attribute_values is not None
    table, got = array(module.attributes.table), array(module(rows))[:, 4:7]
    for k, (slots, values) in enumerate(
        zip(rows.attributes.numpy(), array(rows.attribute_values), strict=True)
    ):
        present = [v * table[i] for i, v in zip(slots[:2], values[:2], strict=True) if i > 0]
        wanted = np.mean(present, axis=0) if present else np.zeros(3)
        np.testing.assert_allclose(got[k], wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInput, match="values"):
        module(rows._replace(attribute_values=None))


def test_content_in_the_embedding_is_the_projected_unit_vector() -> None:
    places = {m.name: (i, m) for i, m in enumerate(MODALITIES)}
    config = ItemContentConfig(modalities=("image", "fused"), dim=3)
    module = ItemEmbedding(AttributeTable(), id_dim=4, attribute_dim=3, content=config, modalities=places)
    spread(module)
    rows = batch().rows
    got = array(module(rows))
    assert got.shape[1] == module.width == 4 + 6
    for place, (column, part) in enumerate(((1, slice(12, 24)), (2, slice(24, 36)))):
        unit = array(rows.codes)[:, part] * array(rows.inv_norm)[:, column : column + 1]
        wanted = unit @ layers(module.projections[place])[0][0].T
        np.testing.assert_allclose(got[:, 4 + 3 * place : 7 + 3 * place], wanted, rtol=1e-5, atol=1e-6)
    assert not got[rows.inv_norm[:, 1].numpy() == 0, 4:7].any()  # without an image nothing is said of it


def test_id_dropout_forgets_about_the_rate_and_only_known_items() -> None:
    known = torch.arange(20_000) % 4 != 0
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    kept = drop_ids(known, 0.1, draws)
    assert not (kept & ~known).any()
    assert float(kept.sum() / known.sum()) == pytest.approx(0.9, abs=0.01)
    assert torch.equal(drop_ids(known, 0.0, draws), known)
    with pytest.raises(InvalidInput, match="rate"):
        drop_ids(known, 1.0, draws)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"attributes\.rows"):
        AttributeTable((), 0)
    with pytest.raises(InvalidInput, match=r"attributes\.slots"):
        AttributeTable((1, 0), 3)
