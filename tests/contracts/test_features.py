"""Feature assembly equals slow code written from its definition; test_request_inputs.py has the rest."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import codec
from contracts.features import REQUIRED_INPUTS, align_histories, assemble, item_inputs, join
from contracts.items import AttributeField
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema, FieldEncoding


@given(st.lists(st.lists(st.integers(1, 99), max_size=6), max_size=6), st.integers(1, 8), st.data())
@settings(max_examples=200, deadline=None)
def test_align_histories_equals_brute_force(lists: list[list[int]], length: int, data: st.DataObject) -> None:
    values = np.array([x for one in lists for x in one], np.int32)
    spans = [
        sorted(data.draw(st.tuples(st.integers(0, len(values)), st.integers(0, len(values))))) for _ in lists
    ]
    starts = np.array([s for s, _ in spans], np.int64)
    ends = np.array([e for _, e in spans], np.int64)
    behaviours, mask = align_histories(values, starts, ends, length)
    assert behaviours.shape == mask.shape == (len(lists), length)
    assert (behaviours.dtype.str, mask.dtype.str) == ("<i4", "|b1")
    for row, (start, end) in enumerate(spans):
        newest = values[start:end].tolist()[-length:]
        pad = length - len(newest)
        assert behaviours[row].tolist() == [0] * pad + newest
        assert mask[row].tolist() == [False] * pad + [True] * len(newest)


ids = st.sampled_from(["a", "b", "c", "d", "{e}", "🎬"])
requests = st.lists(
    st.builds(ScoreRequest, st.lists(ids, max_size=5), st.lists(st.builds(Behaviour, ids), max_size=7)),
    max_size=5,
)


@given(requests, st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_assemble_equals_brute_force(asked: list[ScoreRequest], history_length: int) -> None:
    out = assemble(asked, FeatureSchema(history_length, 1))
    assert len(set(out.item_ids)) == len(out.item_ids)
    read = [[x.item_id for x in r.behaviours[-history_length:]] for r in asked]
    assert set(out.item_ids) == {i for r in asked for i in r.candidates} | {i for one in read for i in one}
    names = [None, *out.item_ids]
    n_max = max((len(r.candidates) for r in asked), default=0)
    t_max = max([1, *map(len, read)])
    assert out.candidates.shape == (len(asked), n_max)
    assert out.behaviours.shape == out.behaviour_mask.shape == (len(asked), t_max)
    for b, request in enumerate(asked):
        candidates = [names[k] for k in out.candidates[b]]
        assert candidates == [*request.candidates, *[None] * (n_max - len(request.candidates))]
        pad = t_max - len(read[b])
        assert [names[k] for k in out.behaviours[b]] == [*[None] * pad, *read[b]]
        assert out.behaviour_mask[b].tolist() == [False] * pad + [True] * len(read[b])


def test_an_item_that_is_asked_twice_is_fetched_once() -> None:
    out = assemble(
        [ScoreRequest(["a", "b", "a"], [Behaviour("b")]), ScoreRequest(["b"])], FeatureSchema(5, 1)
    )
    assert out.item_ids == ["a", "b"]
    assert out.candidates.tolist() == [[1, 2, 1], [2, 0, 0]]
    assert out.behaviours.tolist() == [[2], [0]]


def test_item_inputs() -> None:
    genre = FieldEncoding(AttributeField("g", "categorical"), "vocabulary", np.array([7], np.uint32))
    price = FieldEncoding(AttributeField("p", "numeric"), "standard", mean=30.0, std=10.0)
    schema = FeatureSchema(5, 3, (genre, price))
    vectors = np.array([[1, 0.5], [0.25, -1], [1, 1]], np.float32)
    sequences = np.array([1, 2, 3], np.uint64)
    records = codec.encode_records([vectors], sequences, np.array([[7, 0x40000000]] * 3, np.uint32))
    records[1:2] = codec.tombstones(records.dtype, np.array([4], np.uint64))
    records[2] = np.zeros((), records.dtype)
    trained = np.array([[1, 0, -1], [0, 0, 0], [2, 2, 2]], np.float32)
    id_rows = codec.encode_id_rows(trained, np.log1p(np.array([7, 9, 70_000], np.float32)))
    id_rows[1] = np.zeros((), id_rows.dtype)
    found = np.array([True, True, False])
    inputs = item_inputs(records, found, id_rows, np.array([True, False, True]), schema)

    assert set(inputs) == {*REQUIRED_INPUTS[:6], "attribute_values", "id_evidence"}
    assert all(len(array) == 4 for array in inputs.values())
    assert {name: array.dtype.str for name, array in inputs.items()} == {
        "codes": "|i1",
        "inv_norm": "<f4",
        "attributes": "<i4",
        "attribute_values": "<f4",
        "id_codes": "|i1",
        "id_scale": "<f4",
        "id_known": "|b1",
        "id_evidence": "<f4",
    }
    assert not any(array[0].any() for array in inputs.values())  # the padding row
    np.testing.assert_array_equal(inputs["codes"][1], records["codes"][0])
    np.testing.assert_array_equal(inputs["inv_norm"][1], records["inv_norm"][0])
    assert inputs["attributes"][1].tolist() == [2, 3, 4]
    np.testing.assert_allclose(inputs["attribute_values"][1], [1, (2 - 30) / 10, 1], rtol=1e-6)
    assert not inputs["inv_norm"][2:].any()  # a tombstone and a missing record
    assert not inputs["attributes"][2:].any()
    assert not inputs["attribute_values"][2:].any()
    np.testing.assert_array_equal(inputs["id_codes"][1:], id_rows["codes"])
    np.testing.assert_array_equal(inputs["id_scale"][1:], id_rows["scale"])
    assert inputs["id_known"].tolist() == [False, True, False, True]
    np.testing.assert_allclose(inputs["id_evidence"], np.log1p([0, 7, 0, 70_000]), rtol=1e-3)


def test_item_inputs_of_no_items_are_the_padding_row() -> None:
    schema = FeatureSchema(5, 3, ())
    inputs = item_inputs(
        np.zeros(0, codec.record_dtype((2,), 0)),
        np.zeros(0, bool),
        np.zeros(0, codec.id_row_dtype(codec.ID_INT8, 3)),
        np.zeros(0, bool),
        schema,
    )
    assert {name: array.shape for name, array in inputs.items()} == {
        "codes": (1, 2),
        "inv_norm": (1, 1),
        "attributes": (1, 0),
        "attribute_values": (1, 0),
        "id_codes": (1, 3),
        "id_scale": (1,),
        "id_known": (1,),
        "id_evidence": (1,),
    }


@given(st.lists(requests.filter(bool), min_size=1, max_size=4), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_joined_requests_are_the_requests(groups: list[list[ScoreRequest]], history_length: int) -> None:
    schema = FeatureSchema(history_length, 1, time_gaps=True)
    parts = [assemble(group, schema, now_ms=5_000) for group in groups]
    out = join(parts)
    names = [None, *out.item_ids]
    b = 0
    for part in parts:
        own = [None, *part.item_ids]
        n, t = part.candidates.shape[1], part.behaviours.shape[1]
        for row in range(len(part.candidates)):
            assert [names[k] for k in out.candidates[b, :n]] == [own[k] for k in part.candidates[row]]
            assert not out.candidates[b, n:].any()
            old = out.behaviours.shape[1] - t
            assert [names[k] for k in out.behaviours[b, old:]] == [own[k] for k in part.behaviours[row]]
            assert not out.behaviours[b, :old].any()
            assert out.behaviour_mask[b].tolist() == [False] * old + part.behaviour_mask[row].tolist()
            gaps = part.request_inputs["gaps"][row].tolist()
            assert out.request_inputs["gaps"][b].tolist() == [0] * old + gaps
            b += 1
    assert b == len(out.candidates)
    for name in ("candidates", "behaviours", "behaviour_mask"):
        assert getattr(out, name).dtype == getattr(parts[0], name).dtype
