"""The items of a dataset: items.parquet and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InvalidInput
from contracts.items import MAX_FIELD_CHARACTERS, AttributeField, AttributeValue, Item
from training.data.pictures import IMAGE, IMAGE_URL, Pictures, find_pictures
from training.data.schema import TITLE, attribute_fields, text_fields
from training.data.table import Array, Table, as_text, is_bytes, is_text, mask, read_table, read_types

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Catalogue:
    """I items in the order of items.parquet. Numbers are rows; `row_of` finds an id's."""

    item_ids: list[str]
    row_of: dict[str, int]
    titles: list[str]  # "" where absent
    text_fields: tuple[str, ...]
    attribute_fields: tuple[AttributeField, ...]
    pictures: Pictures
    columns: Mapping[str, Array] = field(repr=False)  # text and categorical: strings; numeric: float64
    image_urls: Array | None = None  # where the pictures are that are not here

    def __len__(self) -> int:
        return len(self.item_ids)

    def item(self, row: int) -> Item:
        """The item as it would be pushed; absent texts and attributes are left out."""
        text = {n: value for n in self.text_fields if (value := self.columns[n][row].as_py())}
        attributes: dict[str, AttributeValue] = {}
        for f in self.attribute_fields:
            cell = self.columns[f.name][row].as_py()
            if f.kind == "categorical" and cell:
                attributes[f.name] = str(cell)
            elif f.kind == "numeric" and cell is not None:
                attributes[f.name] = float(cell)
        image = self.pictures.read(row)
        url = None
        if image is None and self.image_urls is not None:
            url = self.image_urls[row].as_py() or None
        return Item(self.item_ids[row], text, attributes, image, url)


def load_catalogue(
    directory: Path,
    named_text: Sequence[str] | None = None,
    named_attributes: Sequence[str] | None = None,
) -> Catalogue:
    """items.parquet of `directory`, checked. InvalidInput names file, column and row."""
    path = directory / "items.parquet"
    items = read_table(path, _without_pictures(path))
    ids = as_text(items.ids("item_id"))
    if not items.rows:
        raise InvalidInput(items.name, 0, "has no rows")
    item_ids: list[str] = ids.to_pylist()
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    items.refuse_repeated("item_id")
    texts = text_fields(items, named_text)
    attributes = attribute_fields(items, named_attributes)
    title = items.column(TITLE)
    if not is_text(title.type):
        raise items.wrong_type(TITLE, "strings")
    columns = {f.name: _attribute_column(items, f) for f in attributes}
    columns |= {name: _text_column(items, name) for name in texts}
    return Catalogue(
        item_ids=item_ids,
        row_of=row_of,
        titles=pc.fill_null(title, "").to_pylist(),
        text_fields=texts,
        attribute_fields=attributes,
        pictures=find_pictures(directory, row_of),
        image_urls=_image_urls(items),
        columns=columns,
    )


def _image_urls(items: Table) -> Array | None:
    if IMAGE_URL not in items.columns:
        return None
    urls = items.column(IMAGE_URL)
    if not is_text(urls.type):
        raise items.wrong_type(IMAGE_URL, "strings")
    return urls


def _without_pictures(path: Path) -> list[str] | None:
    """All columns of the file but its pictures, which are read when asked for."""
    types = read_types(path)
    if types is None:
        return None  # read_table says what is wrong with it
    return [n for n, kind in types.items() if not (n == IMAGE or is_bytes(kind))]


def _text_column(items: Table, name: str) -> Array:
    values = items.column(name)
    long = pc.greater(pc.utf8_length(values), MAX_FIELD_CHARACTERS)
    items.refuse(name, mask(pc.fill_null(long, False)), f"exceeds {MAX_FIELD_CHARACTERS} characters")
    return values


def _attribute_column(items: Table, f: AttributeField) -> Array:
    if f.kind == "categorical":
        values = items.column(f.name)
        return as_text(values) if not is_text(values.type) else _text_column(items, f.name)
    numbers = items.floats(f.name)
    items.refuse(f.name, np.abs(np.nan_to_num(numbers, nan=0.0)) > _FLOAT32_MAX, "does not fit float32")
    return pa.array(numbers, from_pandas=True)  # NaN becomes null: absent
