from __future__ import annotations

import numpy as np
import pytest

from contracts.codec import encode_records
from contracts.errors import InvalidInput
from contracts.items import AttributeField, attribute_slots, token_hash
from contracts.schema import FeatureSchema, encode_columns
from training.vocabularies import fit_columns, fit_vocabularies, quantile_edges, scaling

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
    rows = encode_columns(later["attributes"], schema.items).rows
    known = encode_columns(seen["attributes"], schema.items).rows
    unknown_genre = 1  # row 0 is absent, then the field's unknown row, then its tokens
    assert rows[0].tolist() == [2, unknown_genre, known[-1, 2]]
    assert rows[1].tolist() == [0, 0, 0]
    assert rows[2].tolist() == [unknown_genre, 0, known[0, 2]]
    assert len(set(known[:, 2].tolist())) == 4
    assert rows.max() < schema.item_rows


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


def _numbers(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32).view(np.uint32)[:, None]


def test_numbers_can_be_scaled() -> None:
    field = AttributeField("price", "numeric")
    values = [1.0, 10.0, 100.0, 1_000.0, float("nan")]
    (standard,) = fit_columns(_numbers(values), (field,), encodings={"price": "standard"})
    (log,) = fit_columns(_numbers(values), (field,), encodings={"price": "log"})
    for fitted, known in ((standard, np.array(values[:4])), (log, np.log1p(values[:4]))):
        columns = encode_columns(_numbers(values), (fitted,))
        scaled = columns.values[:4, 0]
        np.testing.assert_allclose(scaled, (known - known.mean()) / known.std(), rtol=1e-6)
        assert columns.rows[4].tolist() == [0, 0]
    (empty,) = fit_columns(_numbers([float("nan")]), (field,), encodings={"price": "standard"})
    (equal,) = fit_columns(_numbers([3.0, 3.0]), (field,), encodings={"price": "standard"})
    assert (empty.mean, empty.std) == (0.0, 1.0)
    assert (equal.mean, equal.std) == (3.0, 1.0)


def test_heavy_tails_are_read_by_their_logarithm() -> None:
    rng = np.random.default_rng(0)
    tail = np.exp(rng.normal(size=2_000)).astype(np.float32)
    assert scaling(tail) == "log"
    assert scaling(np.append(tail, np.float32("nan"))) == "log"
    assert scaling(np.append(tail, np.float32(0))) == "standard"  # not all positive
    assert scaling(rng.uniform(1, 100, 2_000).astype(np.float32)) == "standard"
    assert scaling(np.zeros(0, np.float32)) == "standard"
    field = AttributeField("price", "numeric")
    slots = tail.view(np.uint32)[:, None]
    assert fit_columns(slots, (field,), default="requests")[0].encoding == "log"
    assert fit_columns(slots, (field,))[0].encoding == "bins"


def test_many_tokens_of_requests_are_hashed() -> None:
    field = AttributeField("city", "categorical")
    few, many = (
        np.stack([attribute_slots({"city": f"c{k % n}"}, (field,)) for k in range(3 * n)]) for n in (200, 201)
    )
    assert fit_columns(few, (field,), default="requests")[0].encoding == "vocabulary"
    (hashed,) = fit_columns(many, (field,), default="requests")
    assert (hashed.encoding, hashed.buckets) == ("hash", 512)
    assert fit_columns(many, (field,))[0].encoding == "vocabulary"  # of items
    assert fit_columns(many, (field,), encodings={"city": "vocabulary"}, default="requests")[0].rows == 202
    (small,) = fit_columns(few[:1], (field,), encodings={"city": "hash"})
    assert small.buckets == 64


def test_an_encoding_has_to_fit_its_field() -> None:
    with pytest.raises(InvalidInput, match=r"genres\.encoding: does not fit a categorical field"):
        fit_vocabularies(_records([{}]), FIELDS, encodings={"genres": "log"})
    with pytest.raises(InvalidInput, match=r"year\.encoding: does not fit a numeric field"):
        fit_vocabularies(_records([{}]), FIELDS, encodings={"year": "hash"})
    with pytest.raises(InvalidInput, match=r"year\.encoding: must be one of"):
        fit_vocabularies(_records([{}]), FIELDS, encodings={"year": "cubes"})  # type: ignore[dict-item]
