"""What requests themselves carry (gaps, columns, searches) as graph inputs, against slow code."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import codec
from contracts.errors import InvalidInput, shown
from contracts.features import (
    GAP_ROWS,
    GRAPH_INPUTS,
    OPTIONAL_INPUTS,
    REQUIRED_INPUTS,
    assemble,
    columns_given,
    context_columns,
    gap_buckets,
    given_inputs,
    query_rows,
)
from contracts.items import AttributeField, token_hash
from contracts.request import Behaviour, ScoreRequest, check_request
from contracts.schema import FeatureSchema, FieldEncoding
from contracts.space import Modality
from tests.contracts.hostile import ODD_COLUMNS

INT64_MAX = 2**63 - 1
NOW = 1_700_000_000_000
AGE = FieldEncoding(AttributeField("age", "numeric"), "standard", mean=30.0, std=10.0)
CITY = FieldEncoding(AttributeField("city", "categorical", 2), "hash", buckets=50)
HOUR = FieldEncoding(AttributeField("hour", "numeric"), "bins", edges=np.array([6, 12, 18], np.float32))
SPENT = FieldEncoding(AttributeField("{spent}", "numeric"), "log", std=2.0)
DEVICE = FieldEncoding(
    AttributeField("device", "categorical"),
    "vocabulary",
    np.array(sorted(token_hash("device", d) for d in ("tv", "phone")), np.uint32),
)
QUERY = (Modality("text", 3), Modality("image", 2))
FULL = FeatureSchema(6, 3, user=(AGE, CITY), context=(HOUR, SPENT, DEVICE, CITY), time_gaps=True, query=QUERY)
BARE = FeatureSchema(6, 3)


def brute_bucket(elapsed_ms: int, known: bool) -> int:
    if not known:
        return 0
    seconds = max(0, elapsed_ms) // 1000
    return min(31, (seconds + 1).bit_length())  # floor(log2(n)) is one less than the bits of n


edge_ms = [2**k * 1000 + d for k in range(50) for d in (-1001, -1000, -1, 0)]
elapsed = st.sampled_from([*edge_ms, 0, -1, -INT64_MAX, INT64_MAX]) | st.integers(-INT64_MAX, INT64_MAX)


@given(st.lists(st.tuples(elapsed, st.booleans()), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_gap_buckets_equal_brute_force(drawn: list[tuple[int, bool]]) -> None:
    times = np.array([t for t, _ in drawn], np.int64)
    out = gap_buckets(times, np.array([known for _, known in drawn]))
    assert out.dtype == np.int32
    assert out.tolist() == [brute_bucket(*one) for one in drawn]
    assert out.max() < GAP_ROWS


@pytest.mark.parametrize(
    ("elapsed_ms", "bucket"),
    [(-5, 1), (0, 1), (999, 1), (1000, 2), (2999, 2), (3000, 3), (86_400_000, 17), (INT64_MAX, 31)],
)
def test_gap_buckets_are_these_literals(elapsed_ms: int, bucket: int) -> None:
    times = np.array([[elapsed_ms, elapsed_ms]])
    assert gap_buckets(times, np.array([[True, False]])).tolist() == [[bucket, 0]]


limits = st.sampled_from([0, -0.0, 30, 2**63 - 1, -(2**63), 3.4e38, 5e-324])
numbers = st.none() | limits | st.floats(-1e6, 1e6)
words = st.none() | st.sampled_from(["tv", "phone", "tv|radio", "", "|", "{x}", "nan", 7, 7.5, "x" * 10_000])
lists = words | st.lists(st.sampled_from(["a", "b", "", "日本", "{c}"]), max_size=4)


def columns(fields: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Those that are not None, and one that nobody reads."""
    drawn = st.fixed_dictionaries({**fields, "nobody": st.just("reads this")})
    return drawn.map(lambda found: {name: value for name, value in found.items() if value is not None})


users = columns({"age": numbers, "city": lists})
contexts = columns({"hour": numbers, "{spent}": numbers, "device": words, "city": lists})


def brute_field(f: FieldEncoding, value: Any) -> list[tuple[int, float]]:
    """(row within the field, value) of its present columns."""
    if value is None:
        return []
    if f.field.kind == "numeric":
        number = float(np.float32(value))
        if f.encoding == "bins":
            return [(sum(number >= e for e in f.edges.tolist()), 1.0)]
        x = math.copysign(math.log1p(abs(number)), number) if f.encoding == "log" else number
        return [(0, min(10.0, max(-10.0, (x - f.mean) / f.std))), (1, 1.0)]
    spelt = f"{value:g}" if isinstance(value, int | float) else value
    split = spelt.split("|") if isinstance(spelt, str) else spelt
    slots = [token_hash(f.field.name, t.strip()) for t in split if t.strip()][: f.field.slots]
    if f.encoding == "hash":
        return [(slot % f.buckets, 1.0) for slot in slots]
    known = f.tokens.tolist()
    return [(known.index(slot) + 1 if slot in known else 0, 1.0) for slot in slots]


@given(st.lists(st.tuples(users, contexts), max_size=4))
@settings(max_examples=200, deadline=None)
def test_context_columns_equal_brute_force(said: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    rows, values = context_columns([u for u, _ in said], [c for _, c in said], FULL)
    assert rows.shape == values.shape == (len(said), 10)
    assert (rows.dtype.str, values.dtype.str) == ("<i4", "<f4")
    counts = columns_given(rows, FULL)
    for b, (user, context) in enumerate(said):
        wanted: list[tuple[int, float]] = []
        given_, first = 0, 1
        for f, side in [*((f, user) for f in FULL.user), *((f, context) for f in FULL.context)]:
            present = brute_field(f, side.get(f.field.name))
            given_ += bool(present)
            wanted += [(first + row, value) for row, value in present]
            wanted += [(0, 0.0)] * (f.columns - len(present))
            first += f.rows
        assert rows[b].tolist() == [row for row, _ in wanted]
        np.testing.assert_allclose(values[b], [value for _, value in wanted], rtol=1e-6, atol=1e-30)
        assert counts[b] == given_
    assert rows.max(initial=0) < FULL.request_rows


def test_a_column_of_user_and_context_has_rows_of_its_own_in_each() -> None:
    rows, _ = context_columns([{"city": "Bern"}], [{"city": "Bern"}], FULL)
    user, context = rows[0, 2], rows[0, 8]
    assert 0 < user < context == user + CITY.rows + HOUR.rows + SPENT.rows + DEVICE.rows


@pytest.mark.parametrize("value", ["7", "", "x" * 10_000, [], ["7"], "{}"], ids=shown)
@pytest.mark.parametrize(("where", "name"), [("user", "age"), ("context", "hour"), ("context", "{spent}")])
def test_words_where_a_number_is_read_are_refused_and_named(where: str, name: str, value: Any) -> None:
    columns: dict[str, Any] = {where: {name: value}}
    request = check_request(ScoreRequest(["a"], **columns))
    with pytest.raises(InvalidInput, match="must be a number") as caught:
        assemble([request], FULL)
    assert caught.value.field == f"{where}.{name}"
    assert len(str(caught.value)) < 300
    assemble([request], BARE)  # a ranker that does not read it ignores it


@pytest.mark.parametrize("value", ODD_COLUMNS, ids=shown)
def test_odd_values_are_read_without_a_warning(value: Any) -> None:
    name = "age" if isinstance(value, int | float) else "city"
    both = {name: value, "never heard of": value}
    request = check_request(ScoreRequest(["a"], user=both, context=both))
    extra = assemble([request], FULL).request_inputs
    assert np.isfinite(extra["context_values"]).all()


def test_no_columns_at_all() -> None:
    rows, values = context_columns([{}] * 3, [{"x": 1}] * 3, BARE)
    assert rows.shape == values.shape == (3, 0)
    assert columns_given(rows, BARE).tolist() == [0, 0, 0]
    assert context_columns([], [], BARE)[0].shape == (0, 0)
    assert context_columns([], [], FULL)[0].shape == (0, 10)


component = st.floats(-1e30, 1e30) | st.sampled_from([0.0, 1e-45, 3.4e38, -3.4e38, 1])
queries = st.fixed_dictionaries(
    {},
    optional={
        m.name: st.just([]) | st.lists(component, min_size=m.dim, max_size=m.dim) | st.just([0.0] * m.dim)
        for m in QUERY
    },
)


@given(st.lists(queries, max_size=4))
@settings(max_examples=200, deadline=None)
def test_query_rows_equal_what_a_record_would_hold(asked: list[dict[str, list[float]]]) -> None:
    codes, inv_norm = query_rows(asked, FULL)
    assert (codes.shape, codes.dtype.str) == ((len(asked), 5), "|i1")
    assert (inv_norm.shape, inv_norm.dtype.str) == ((len(asked), 2), "<f4")
    for b, query in enumerate(asked):
        blocks = [np.array([query.get(m.name) or [0.0] * m.dim], np.float32) for m in QUERY]
        record = codec.encode_records(blocks, np.ones(1, np.uint64), np.zeros((1, 0), np.uint32))[0]
        assert codes[b].tolist() == record["codes"].tolist()
        assert inv_norm[b].tolist() == record["inv_norm"].tolist()


def test_only_the_direction_of_a_query_counts() -> None:
    near, norm = query_rows([{"text": [1, -2, 4]}], FULL)
    far, same = query_rows([{"text": [1e30, -2e30, 4e30]}], FULL)
    assert near.tolist() == far.tolist() == [[32, -64, 127, 0, 0]]
    assert norm.tolist() == same.tolist()
    assert norm[0].tolist() == [pytest.approx(1 / math.sqrt(32**2 + 64**2 + 127**2)), 0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"text": [1.0]}, "query.text"),
        ({"image": [1.0, 2.0, 3.0]}, "query.image"),
        ({"fused": [1.0]}, "query.fused"),
        ({"b": [], "a": []}, "query.a"),
        ({"text": [1.0, 2.0, 3.0], "Text": [1.0]}, "query.Text"),
    ],
    ids=shown,
)
def test_queries_that_do_not_fit_the_space_are_refused(query: dict[str, list[float]], field: str) -> None:
    request = check_request(ScoreRequest(["a"], query=query))
    with pytest.raises(InvalidInput) as caught:
        assemble([request], FULL)
    assert caught.value.field == field
    assemble([request], BARE)  # a ranker that reads no search ignores it


def asked_at(
    candidates: list[str], gaps: list[int | None], later: int | None, *rest: dict[str, Any]
) -> ScoreRequest:
    """Behaviours that ascend, some without a time; the request `later` ms after the newest, or untimed."""
    behaviours, clock = [], 0
    for n, gap in enumerate(gaps):
        clock += gap or 0
        behaviours.append(Behaviour("abcd"[n % 4], None if gap is None else clock))
    user, context, query = rest
    at = None if later is None else clock + later
    return ScoreRequest(candidates, behaviours, user=user, context=context, timestamp_ms=at, query=query)


spans = st.integers(0, 5_000) | st.integers(0, 10**11)
full_requests = st.lists(
    st.builds(
        asked_at,
        st.lists(st.sampled_from("abcdef"), max_size=3),
        st.lists(st.none() | spans, max_size=9),
        st.none() | spans,
        users,
        contexts,
        queries,
    ),
    max_size=4,
)


@given(full_requests)
@settings(max_examples=150, deadline=None)
def test_assembling_everything_equals_brute_force(asked: list[ScoreRequest]) -> None:
    for request in asked:
        check_request(request)
    out = assemble(asked, FULL, NOW)
    inputs = out.inputs()
    assert set(inputs) == set(given_inputs(FULL)) - {*REQUIRED_INPUTS[:6], "attribute_values", "id_evidence"}
    bare = assemble(asked, BARE)
    assert set(bare.inputs()) == {"candidates", "behaviours", "behaviour_mask"}
    assert bare.item_ids == out.item_ids
    for name, array in bare.inputs().items():
        np.testing.assert_array_equal(array, inputs[name])
    gaps = inputs["gaps"]
    assert (gaps.shape, gaps.dtype.str) == (out.behaviours.shape, "<i4")
    for b, request in enumerate(asked):
        at = NOW if request.timestamp_ms is None else request.timestamp_ms
        newest = request.behaviours[-FULL.history_length :]
        wanted = [brute_bucket(at - (x.timestamp_ms or 0), x.timestamp_ms is not None) for x in newest]
        assert gaps[b].tolist() == [0] * (gaps.shape[1] - len(newest)) + wanted
    context, values = context_columns([r.user for r in asked], [r.context for r in asked], FULL)
    np.testing.assert_array_equal(inputs["context"], context)
    np.testing.assert_array_equal(inputs["context_values"], values)
    codes, inv_norm = query_rows([r.query for r in asked], FULL)
    np.testing.assert_array_equal(inputs["query_codes"], codes)
    np.testing.assert_array_equal(inputs["query_inv_norm"], inv_norm)


def test_a_request_that_does_not_say_when_is_made_now() -> None:
    just = Behaviour("a", int(time.time() * 1e3) - 90_000)  # 90 s: bucket 7 is from 63 to 126 s
    assert assemble([ScoreRequest(["a"], [just])], FULL).request_inputs["gaps"].tolist() == [[7]]
    ends = ScoreRequest(["a"], [Behaviour("a", 0), Behaviour("a", INT64_MAX)], timestamp_ms=INT64_MAX)
    assert assemble([check_request(ends)], FULL).request_inputs["gaps"].tolist() == [[31, 1]]


def test_inputs_that_a_schema_gives() -> None:
    assert GRAPH_INPUTS == REQUIRED_INPUTS + OPTIONAL_INPUTS
    assert given_inputs(FULL) == GRAPH_INPUTS
    assert given_inputs(BARE) == (*REQUIRED_INPUTS, "attribute_values", "id_evidence")
    changes: list[dict[str, Any]] = [
        *({"user": (AGE,)}, {"context": (AGE,)}),
        *({"time_gaps": True}, {"query": QUERY}),
    ]
    for change in changes:
        schema = FeatureSchema(6, 3, **change)
        own = assemble([ScoreRequest(["a"])], schema).inputs()
        assert set(given_inputs(schema)) == set(given_inputs(BARE)) | set(own)
