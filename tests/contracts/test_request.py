"""Score requests: validation names the field, whatever the values are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contracts.errors import InvalidInput, TooLarge, shown
from contracts.images import MAX_IMAGE_BYTES
from contracts.items import Item
from contracts.request import (
    MAX_BEHAVIOURS,
    MAX_CANDIDATES,
    MAX_CONTENTS,
    MAX_QUERY_DIM,
    Behaviour,
    Limits,
    ScoreRequest,
    check_request,
)
from tests.contracts.hostile import BAD_COLUMNS, BAD_IDS, ODD_COLUMNS, ODD_IDS


def test_odd_ids_are_accepted_everywhere() -> None:
    request = ScoreRequest(ODD_IDS, [Behaviour(i) for i in ODD_IDS], "home", ODD_IDS[0])
    assert check_request(request) is request


@pytest.mark.parametrize("bad", BAD_IDS, ids=shown)
def test_bad_ids_are_refused_and_the_field_named(bad: Any) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=r"^candidates\[1\]: "):
        check_request(ScoreRequest(["a", bad]))
    with pytest.raises((InvalidInput, TooLarge), match=r"^behaviours\[1\]\.item_id: "):
        check_request(ScoreRequest(["a"], [Behaviour("a"), Behaviour(bad)]))
    with pytest.raises((InvalidInput, TooLarge), match=r"^scene: "):
        check_request(ScoreRequest(["a"], scene=bad))
    if bad is not None:
        with pytest.raises((InvalidInput, TooLarge), match=r"^user_id: "):
            check_request(ScoreRequest(["a"], user_id=bad))


def test_a_scene_has_at_most_128_characters() -> None:
    check_request(ScoreRequest(["a"], scene="s" * 128))
    with pytest.raises(InvalidInput, match=r"^scene: "):
        check_request(ScoreRequest(["a"], scene="s" * 129))


@pytest.mark.parametrize(
    "time", [float("nan"), float("inf"), 1.5, -1, 2**63, 10**400, "7", True, [], b""], ids=shown
)
def test_bad_times_are_refused_and_the_field_named(time: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^behaviours\[1\]\.timestamp_ms: "):
        check_request(ScoreRequest(["a"], [Behaviour("a", 1), Behaviour("a", time)]))


@pytest.mark.parametrize("times", [[0], [2**63 - 1], [1, 1], [1, None, 2], [None, 5, None]])
def test_usable_times(times: list[int | None]) -> None:
    check_request(ScoreRequest(["a"], [Behaviour("a", time) for time in times]))


@pytest.mark.parametrize("times", [[2, 1], [2, None, 1]])
def test_times_that_go_back_are_refused(times: list[int | None]) -> None:
    with pytest.raises(InvalidInput, match="goes back: the newest must be last"):
        check_request(ScoreRequest(["a"], [Behaviour("a", time) for time in times]))


def test_sizes_are_bounded_before_anything_is_read() -> None:
    check_request(ScoreRequest(["a"] * MAX_CANDIDATES, [Behaviour("a")] * MAX_BEHAVIOURS))
    with pytest.raises(TooLarge, match=r"^candidates: 2001 items"):
        check_request(ScoreRequest(["a"] * (MAX_CANDIDATES + 1)))
    with pytest.raises(TooLarge, match=r"^behaviours: 1001 items"):
        check_request(ScoreRequest(["a"], [Behaviour("a")] * (MAX_BEHAVIOURS + 1)))


@pytest.mark.parametrize("time", [-1, 2**63, 1.0, float("nan"), "7", True, b""], ids=shown)
def test_bad_times_of_a_request_are_refused(time: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^timestamp_ms: "):
        check_request(ScoreRequest(["a"], timestamp_ms=time))


@pytest.mark.parametrize("time", [5, 6, 2**63 - 1])
def test_a_request_is_not_before_its_newest_behaviour(time: int) -> None:
    behaviours = [Behaviour("a", 4), Behaviour("b", 5), Behaviour("c")]
    check_request(ScoreRequest(["a"], behaviours, timestamp_ms=time))
    check_request(ScoreRequest(["a"], [Behaviour("c")], timestamp_ms=0))
    with pytest.raises(InvalidInput, match=r"^timestamp_ms: is before the newest behaviour \(got 4\)"):
        check_request(ScoreRequest(["a"], behaviours, timestamp_ms=4))


@pytest.mark.parametrize("value", ODD_COLUMNS, ids=shown)
@pytest.mark.parametrize("where", ["user", "context"])
def test_odd_columns_are_accepted(where: str, value: Any) -> None:
    columns: dict[str, Any] = dict.fromkeys(("{x}", "a.b", "\x00", "ü 🎬", "x" * 128), value)
    request = ScoreRequest(["a"], **{where: columns})  # type: ignore[arg-type]
    assert check_request(request) is request


@pytest.mark.parametrize("value", BAD_COLUMNS, ids=shown)
@pytest.mark.parametrize("where", ["user", "context"])
def test_bad_columns_are_refused_and_named(where: str, value: Any) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=rf"^{where}\.age: ") as caught:
        check_request(ScoreRequest(["a"], **{where: {"fine": 1, "age": value}}))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["", "x" * 129, "x" * 10_000, "\ud800"], ids=shown)
@pytest.mark.parametrize("where", ["user", "context", "query"])
def test_bad_names_are_refused(where: str, name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^{where}: ") as caught:
        check_request(ScoreRequest(["a"], **{where: {name: [] if where == "query" else 1}}))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("where", "most"), [("user", 64), ("context", 64), ("query", 7)])
def test_columns_and_vectors_are_counted(where: str, most: int) -> None:
    value: Any = [1.0] if where == "query" else 1.0
    check_request(ScoreRequest(["a"], **{where: {f"f{n}": value for n in range(most)}}))  # type: ignore[arg-type]
    with pytest.raises(TooLarge, match=rf"^{where}: {most + 1} "):
        check_request(ScoreRequest(["a"], **{where: {f"f{n}": value for n in range(most + 1)}}))  # type: ignore[arg-type]


FLOAT32_MAX = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    "vector",
    [
        [],
        [0.0],
        [0, 1, -1],
        (0.5, 2),
        [FLOAT32_MAX, -FLOAT32_MAX],
        [5e-324],
        [2**64 - 1],
        np.zeros(3, np.float32),
        np.arange(3),
        [0.0] * MAX_QUERY_DIM,
    ],
    ids=shown,
)
def test_usable_vectors(vector: Any) -> None:
    check_request(ScoreRequest(["a"], query={"text": vector}))


@pytest.mark.parametrize(
    "vector",
    [
        [float("nan")],
        [0.0, float("inf")],
        [1e308],
        [FLOAT32_MAX * 1.01],
        [10**400],
        [2**64],
        ["1"],
        [True],
        [None],
        [[1.0]],
        [[1.0], [1.0, 2.0]],
        [1.0, [2.0]],
        [1j],
        "123",
        b"123",
        7,
        1.5,
        None,
        {"a": 1},
        {1.0, 2.0},
        np.zeros((2, 2)),
        np.float32(1),
    ],
    ids=shown,
)
def test_bad_vectors_are_refused_and_named(vector: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^query\.text: ") as caught:
        check_request(ScoreRequest(["a"], query={"text": vector}))
    assert len(str(caught.value)) < 300


def test_a_vector_is_bounded_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match=r"^query\.text: 4097 numbers"):
        check_request(ScoreRequest(["a"], query={"text": ["rubbish"] * (MAX_QUERY_DIM + 1)}))  # type: ignore[list-item]


HEAT = Item("a", {"title": "Heat"}, {"year": 1995}, b"picture")


def test_contents_of_named_items_are_usable() -> None:
    contents = {"a": HEAT, "b{}": Item("b{}"), "\0": Item("\0", image_url="s3://x/y")}
    behaviours = [Behaviour("b{}"), Behaviour("\0")]
    request = ScoreRequest(["a"], behaviours, missing="encode", default_score=0.5, contents=contents)
    assert check_request(request) is request
    check_request(ScoreRequest(["a"], missing="encode"))
    check_request(ScoreRequest(["a"], query_text="映" * 20_000, query_image=b"x"))


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (Item("b"), r"item_id"),
        (Item("a", {"title": "x" * 20_001}), r"text\.title"),
        (Item("a", {"title": "\ud800"}), r"text\.title"),
        (Item("a", {"title": 7}), r"text\.title"),  # type: ignore[dict-item]
        (Item("a", {"": "x"}), r"text"),
        (Item("a", {f"f{n}": "" for n in range(65)}), r"text"),
        (Item("a", attributes={"year": 1e308}), r"attributes\.year"),
        (Item("a", attributes={"year": float("nan")}), r"attributes\.year"),
        (Item("a", image=b"x" * (MAX_IMAGE_BYTES + 1)), r"image"),
        (Item("a", image="x"), r"image"),  # type: ignore[arg-type]
        (Item("a", image=b"x", image_url="https://x"), r"image_url"),
        (Item("a", image_url="x\n"), r"image_url"),
    ],
)
def test_bad_contents_are_refused_and_named(item: Item, field: str) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=rf"^contents\['a'\]\.{field}: ") as caught:
        check_request(ScoreRequest(["a"], missing="encode", contents={"a": item}))
    assert len(str(caught.value)) < 300


def test_contents_belong_to_the_request_and_are_counted() -> None:
    with pytest.raises(InvalidInput, match=r"^contents: need missing: encode"):
        check_request(ScoreRequest(["a"], contents={"a": HEAT}))
    with pytest.raises(InvalidInput, match=r"^contents: is no candidate and no behaviour .* \(got 'c'\)"):
        check_request(ScoreRequest(["a"], missing="encode", contents={"c": Item("c")}))
    ids = [f"id {n}" for n in range(MAX_CONTENTS + 1)]
    contents = {item_id: Item(item_id) for item_id in ids}
    with pytest.raises(TooLarge, match=r"^contents: 65 items exceed the limit of 64"):
        check_request(ScoreRequest(ids, missing="encode", contents=contents))
    check_request(ScoreRequest(ids, missing="encode", contents=contents), Limits(contents=65))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query_text", "x" * 20_001),
        ("query_text", "\ud800"),
        ("query_text", None),
        ("query_text", b"x"),
        ("query_image", b"x" * (MAX_IMAGE_BYTES + 1)),
        ("query_image", "x"),
        ("query_image", None),
    ],
    ids=shown,
)
def test_bad_queries_are_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=rf"^{field}: ") as caught:
        check_request(ScoreRequest(["a"], **{field: value}))
    assert len(str(caught.value)) < 300
