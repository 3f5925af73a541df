"""The JSON of pushes <-> Items. Everything else about an item is checked by contracts.items."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, WithJsonSchema

from contracts.item_json import read_item
from contracts.items import MAX_ID_BYTES, Item

EXAMPLE: dict[str, JsonValue] = {
    "item_id": "heat-1995",
    "title": "Heat",
    "text": {"plot": "A master thief and a detective hunt each other."},
    "attributes": {"genres": ["Crime", "Drama"], "year": 1995},
    "image": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAE"
    "AAH2FzhVAAAAAElFTkSuQmCC",
}

EXAMPLE_LINES = (
    '{"item_id": "heat-1995", "title": "Heat", "attributes": {"year": 1995}}\n'
    '{"item_id": "ronin-1998", "title": "Ronin", "idempotency_key": "import-7/2"}\n'
    '{"item_id": "old-item", "delete": true}\n'
)
KEY = (
    "The same key with the same content of the same item gives the same receipt for a time; with other "
    "content it is refused with 409. Also as header Idempotency-Key."
)

Attribute = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "array", "items": {"type": "string"}}]}
    ),
]


class ContentBody(BaseModel):
    """What an encoder reads of an item."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str | None = Field(None, description="Short for text.title.")
    text: dict[str, str] = Field({}, description="The fields of the encoder's text template, by name.")
    attributes: dict[str, Attribute] = Field(
        {}, description='Categorical (a string, split at "|", or a list) and numeric attributes, by name.'
    )
    image: str | None = Field(
        None, description="The picture (JPEG, PNG, WebP, GIF, BMP, TIFF) in base64, or as a data URI of it."
    )
    image_url: str | None = Field(
        None,
        description="Where the picture is, instead of image: an https:// URL or the path of an object "
        "(s3://…), both only as far as the operator allows them, or a data URI in base64.",
    )

    def content(self, item_id: str, image: bytes | None = None) -> Item:
        """image: the picture, where it came beside the body. Raises InvalidInput or TooLarge."""
        return read_item(item_id, self.title, self.text, self.attributes, self.image, self.image_url, image)


class ItemBody(ContentBody):
    """A new or changed item. It needs a picture or a text that is not blank."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    item_id: str = Field(description=f"A string of at most {MAX_ID_BYTES} bytes of UTF-8; any characters.")
    idempotency_key: str | None = Field(None, description=KEY)

    def item(self, image: bytes | None = None) -> Item:
        """As content()."""
        return self.content(self.item_id, image)


class DeleteBody(BaseModel):
    """A deletion among the lines of an upload."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item_id: str
    delete: Literal[True]
    idempotency_key: str | None = None


class ReceiptBody(BaseModel):
    """The push is on disk."""

    item_id: str
    sequence: int = Field(description="Newer pushes of the same item have larger numbers; the newest wins.")
    status_url: str = Field(description="Where the item's way to the table can be followed.")
    replayed: bool = Field(
        False, description="The idempotency key was known; this is the earlier push's receipt."
    )


class StatusBody(BaseModel):
    """Where the item's newest push is."""

    item_id: str
    state: str = Field(description="queued, encoding, scoreable, deleted or dead.")
    sequence: int = Field(description="Of the newest push, or of the record where no push is remembered.")
    reason: str | None = Field(description="Why, where the state is dead.")
    updated_ms: int | None = Field(description="Milliseconds since the epoch; null where not remembered.")


def parse_item(body: bytes) -> ItemBody:
    """RequestValidationError names the fields."""
    try:
        return ItemBody.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error


def parse_delete(line: bytes) -> DeleteBody | None:
    """None where the line is no deletion."""
    if b'"delete"' not in line:
        return None
    try:
        document = orjson.loads(line)
        if not isinstance(document, dict) or "delete" not in document:
            return None
        return DeleteBody.model_validate(document)
    except orjson.JSONDecodeError:
        return None
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error
