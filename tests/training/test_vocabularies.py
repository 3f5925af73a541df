from __future__ import annotations

import numpy as np
import pytest

from contracts.codec import encode_records
from contracts.errors import InvalidInput
from contracts.features import FeatureSchema, attribute_rows
from contracts.items import AttributeField, attribute_slots, token_hash
from training.vocabularies import fit_vocabularies, quantile_edges

FIELDS = (AttributeField("genres", "categorical", 2), AttributeField("year", "numeric"))


def _records(values: list[dict[str, str | float]]) -> np.ndarray:
    slots = np.stack([attribute_slots(v, FIELDS) for v in values])
    return encode_records([np.ones((len(values), 4), np.float32)], np.ones(len(values), np.uint64), slots)


def test_tokens_are_sorted_and_rare_ones_left_out() -> None:
    records = _records(
        [{"genres": "war|drama"}, {"genres": "drama"}, {"genres": "war"}, {"genres": "noir"}, {}]
    )
    genres, year = fit_vocabularies(records, FIELDS)
    assert genres.tokens.tolist() == sorted([token_hash("genres", "war"), token_hash("genres", "drama")])
    assert genres.field == FIELDS[0]
    assert len(year.edges) == 0  # no item has a year


def test_unseen_values_read_as_unknown_and_absent_ones_as_zero() -> None:
    seen = _records([{"genres": "war", "year": y} for y in (1990.0, 1991.0, 1992.0, 1993.0)])
    schema = FeatureSchema(8, 4, fit_vocabularies(seen, FIELDS, bins=4))
    later = _records([{"genres": "war|sci-fi", "year": 2020.0}, {}, {"genres": "opera", "year": 1900.0}])
    rows = attribute_rows(later["attributes"], schema)
    known = attribute_rows(seen["attributes"], schema)
    unknown_genre = 1  # row 0 is absent, then the field's unknown row, then its tokens
    assert rows[0].tolist() == [2, unknown_genre, known[-1, 2]]
    assert rows[1].tolist() == [0, 0, 0]
    assert rows[2].tolist() == [unknown_genre, 0, known[0, 2]]
    assert len(set(known[:, 2].tolist())) == 4
    assert rows.max() < schema.attribute_rows


def test_quantile_edges_give_bins_of_equal_count() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1600, dtype=np.float32))
    edges = quantile_edges(np.append(values, np.float32("nan")), 16)
    counts = np.bincount(np.searchsorted(edges, values, side="right"))
    assert len(edges) == 15
    assert counts.min() >= 98
    assert counts.max() <= 102


def test_repeated_values_give_fewer_bins_and_none_empty() -> None:
    values = np.array([1, 1, 1, 1, 1, 1, 2, 7], dtype=np.float32)
    edges = quantile_edges(values, 16)
    assert edges.tolist() == [2.0, 7.0]
    assert quantile_edges(np.full(5, 3, np.float32), 16).tolist() == []
    assert quantile_edges(np.zeros(0, np.float32), 16).tolist() == []


def test_slots_that_do_not_fit_the_fields_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"records\.attributes"):
        fit_vocabularies(_records([{}]), FIELDS[:1])
