"""Contents of items in a score request's JSON, and their OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema

from contracts.errors import InvalidInput, TooLarge, shown
from contracts.item_json import read_item
from contracts.items import Item

Column = Annotated[
    Any,  # contracts.items.check_attributes says what is wrong with it
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "string"}}]}
    ),
]


@dataclass(frozen=True)
class ContentBody:
    """What an encoder reads of an item: the fields of a push."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    title: Annotated[str | None, Field(description="Short for text.title.")] = None
    text: Annotated[
        dict[str, Annotated[Any, WithJsonSchema({"type": "string"})]],
        Field(description="The fields of the encoder's text template, by name."),
    ] = field(default_factory=dict)
    attributes: Annotated[dict[str, Column], Field(description="Categorical and numeric, by name.")] = field(
        default_factory=dict
    )
    image: Annotated[str | None, Field(description="The picture in base64, or as a data URI of it.")] = None
    image_url: Annotated[
        str | None,
        Field(description="Where the picture is, as far as the encoder's operator allows it, or a data URI."),
    ] = None


_CONTENT = TypeAdapter(ContentBody)
_MOST = 1_024  # whatever the operator allows
Content = Annotated[Any, WithJsonSchema(_CONTENT.json_schema())]


def contents_of(bodies: Mapping[str, Any], where: str = "contents") -> dict[str, Item]:
    """JSON values by id -> items, not checked further. InvalidInput, TooLarge name the item and its field."""
    if len(bodies) > _MOST:
        raise TooLarge(where, len(bodies), _MOST, "items")
    return {item_id: _item(item_id, _body(place(item_id, where), body)) for item_id, body in bodies.items()}


def read_contents(text: str, where: str) -> dict[str, Item]:
    """A JSON object of contents by id, "" = none. InvalidInput, TooLarge name `where` or the item's field."""
    return contents_of(json_object(text, where), where) if text else {}


def json_object(text: str, where: str) -> dict[str, Any]:
    """InvalidInput that names `where` where it is none."""
    try:
        document = orjson.loads(text)
    except ValueError as error:
        raise InvalidInput(where, text, "must be a JSON object") from error
    if not isinstance(document, dict):
        raise InvalidInput(where, text, "must be a JSON object")
    return document


def _body(where: str, value: object) -> ContentBody:
    try:
        return _CONTENT.validate_python(value, strict=False)  # what JSON gives needs no conversion
    except ValidationError as error:
        if error.error_count() > _MOST:
            raise InvalidInput(where, "…", f"has {error.error_count()} errors") from None
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise InvalidInput(path, first["input"], first["msg"]) from error


def place(item_id: str, where: str = "contents") -> str:
    """How errors name the content of an item."""
    return f"{where}[{shown(item_id)}]"


def _item(item_id: str, body: ContentBody) -> Item:
    return read_item(
        item_id,
        body.title,
        body.text,
        body.attributes,
        body.image,
        body.image_url,
        where=place(item_id),
    )
