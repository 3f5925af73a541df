"""Which columns become text and which become attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts.errors import InvalidInput
from contracts.items import AttributeField
from tests.training.data.tables import items_columns, log_columns, write
from training.data.catalogue import Catalogue
from training.data.dataset import load_dataset


def catalogue(directory: Path, columns: dict[str, Any], **named: Any) -> Catalogue:
    items = items_columns(40) | columns
    return load_dataset(write(directory, items, log_columns()), **named).catalogue


def test_text_is_title_then_names_then_prose(tmp_path: Path) -> None:
    prose = [
        f"A long story, number {k}, of people who do one thing and then another, told at great length."
        for k in range(40)
    ]
    found = catalogue(
        tmp_path,
        {
            "plot_short": [f"In short, {k}." for k in range(40)],
            "plot_long": prose,
            "director": [f"Director {k}" for k in range(40)],
            "imdb_id": [f"tt{k}" for k in range(40)],
            "image_source": ["somewhere"] * 40,
            "code": [f"{k:05d}" for k in range(40)],
            "split": ["train"] * 40,
        },
    )
    assert found.text_fields == ("title", "director", "plot_long")


def test_attributes_recur_or_count(tmp_path: Path) -> None:
    found = catalogue(
        tmp_path,
        {
            "genres": ["Drama|War" if k % 3 else "Comedy | Drama|War" for k in range(40)],
            "tags": pa.array([["new"] if k % 2 else ["old", "used"] for k in range(40)]),
            "director": [f"Director {k // 2}" for k in range(40)],  # two items each: does not recur
            "publisher": ["Same"] * 40,  # says nothing
            "slogan": [
                ("A sentence that is far too long to be a token of anything. " * 2) + str(k % 4)
                for k in range(40)
            ],
            "year": pa.array([None, *range(1961, 2000)], pa.int16()),
            "price": [0.5 * k for k in range(40)],
            "one": [1] * 40,
            "shop_id": list(range(40)),
            "has_image": [True, False] * 20,
            "image_width": list(range(40)),
            "available_at": list(range(40)),
            "timestamp": list(range(40)),
        },
    )
    assert found.attribute_fields == (
        AttributeField("genres", "categorical", 3),
        AttributeField("tags", "categorical", 2),
        AttributeField("year", "numeric"),
        AttributeField("price", "numeric"),
    )


def test_slots_are_bounded(tmp_path: Path) -> None:
    many = "|".join(f"t{k}" for k in range(9))
    found = catalogue(tmp_path, {"tags": [many] * 40, "rare": ["a|b|c"] + ["a"] * 38 + [None]})
    assert found.attribute_fields == (
        AttributeField("tags", "categorical", 6),
        AttributeField("rare", "categorical", 1),
    )


def test_named_fields_are_taken_as_named(tmp_path: Path) -> None:
    columns = {
        "shop_id": [k % 3 for k in range(40)],
        "fresh": [True, False] * 20,
        "director": [f"Director {k}" for k in range(40)],
        "year": list(range(40)),
    }
    found = catalogue(
        tmp_path,
        columns,
        text_fields=["director", "title"],
        attribute_fields=["fresh", "shop_id", "director"],
    )
    assert found.text_fields == ("director", "title")
    assert found.attribute_fields == (
        AttributeField("fresh", "numeric"),
        AttributeField("shop_id", "categorical"),
        AttributeField("director", "categorical"),
    )
    assert found.item(4).attributes == {"fresh": 1.0, "shop_id": "1", "director": "Director 4"}
    assert found.titles[4] == "Title 4"


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"text_fields": ["title", "absent"]}, "items.parquet: column 'absent'"),
        ({"attribute_fields": ["absent"]}, "items.parquet: column 'absent'"),
        ({"text_fields": ["year"]}, "items.parquet: column 'year'"),
        ({"attribute_fields": ["day"]}, "items.parquet: column 'day'"),
        ({"text_fields": ["title", "title"]}, "text_fields"),
        ({"attribute_fields": "year"}, "attribute_fields"),
    ],
)
def test_named_fields_are_checked(tmp_path: Path, named: dict[str, Any], field: str) -> None:
    columns = {"year": list(range(40)), "day": pa.array(range(40), pa.timestamp("s"))}
    with pytest.raises(InvalidInput) as error:
        catalogue(tmp_path, columns, **named)
    assert error.value.field == field


def test_a_number_that_float32_cannot_hold_names_the_cell(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as error:
        catalogue(tmp_path, {"price": [1.0, float("nan"), 1e39, *([2.0] * 37)]})
    assert error.value.field == "items.parquet: column 'price', row 2"
