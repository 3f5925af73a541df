"""Contents of items in a score request's JSON, and their OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema

from contracts.errors import InvalidInput, shown
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
        dict[str, str], Field(description="The fields of the encoder's text template, by name.")
    ] = field(default_factory=dict)
    attributes: Annotated[dict[str, Column], Field(description="Categorical and numeric, by name.")] = field(
        default_factory=dict
    )
    image: Annotated[str | None, Field(description="The picture in base64, or as a data URI of it.")] = None
    image_url: Annotated[
        str | None,
        Field(description="Where the picture is, as far as the encoder's operator allows it, or a data URI."),
    ] = None


_CONTENTS = TypeAdapter(dict[str, ContentBody])


def contents_of(bodies: Mapping[str, ContentBody]) -> dict[str, Item]:
    """Items by id, not checked further. InvalidInput, TooLarge name the item and its field."""
    return {item_id: _item(item_id, body) for item_id, body in bodies.items()}


def read_contents(text: str, where: str) -> dict[str, Item]:
    """A JSON object of contents by id, "" = none. InvalidInput, TooLarge name `where` or the item's field."""
    if not text:
        return {}
    try:
        return contents_of(_CONTENTS.validate_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join([where, *map(str, first["loc"])])
        raise InvalidInput(path, first["input"], first["msg"]) from error


def place(item_id: str) -> str:
    """How errors name the content of an item."""
    return f"contents[{shown(item_id)}]"


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
