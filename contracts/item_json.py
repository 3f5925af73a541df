"""An item's content as JSON says it: the same fields in a push, a request to encode, a score request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES
from contracts.items import AttributeValue, Item

TITLE = "title"
_DATA = "data:"
_BLANKS = {ord(c): None for c in " \t\r\n"}


def read_item(
    item_id: str,
    title: str | None,
    text: Mapping[str, str],
    attributes: Mapping[str, AttributeValue],
    image: str | None,
    image_url: str | None,
    image_bytes: bytes | None = None,
    where: str = "",
) -> Item:
    """title: short for text.title; image: base64 or a data URI; image_bytes: the picture, where it came
    beside the JSON. Not checked further. InvalidInput and TooLarge name a field below `where`."""
    below = f"{where}." if where else ""
    words = dict(text)
    if title is not None and words.setdefault(TITLE, title) != title:
        raise InvalidInput(below + TITLE, title, "differs from text.title")
    if image is not None:
        if image_bytes is not None:
            raise InvalidInput(f"{below}image", image[:64], "was given twice")
        image_bytes = decode_base64(image, f"{below}image")
    return Item(item_id, words, attributes, *picture(image_bytes, image_url, f"{below}image_url"))


def picture(
    image: bytes | None, image_url: str | None, field: str = "image_url"
) -> tuple[bytes | None, str | None]:
    """The two fields of an item's picture, of which at most one is given; a data URI becomes bytes.

    field: what errors about the URL name. Raises InvalidInput or TooLarge.
    """
    if image_url is None or image_url[: len(_DATA)].lower() != _DATA:
        return image, image_url
    if image is not None:
        raise InvalidInput(field, image_url[:64], "cannot be given together with image")
    return decode_base64(image_url, field), None


def decode_base64(image: str, field: str = "image") -> bytes:
    """Base64 or a data URI -> the picture's bytes. Raises InvalidInput or TooLarge, both name the field."""
    encoded = image
    if image[: len(_DATA)].lower() == _DATA:
        head, comma, encoded = image.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidInput(field, image[:64], "must be a data URI in base64")
    encoded = encoded.translate(_BLANKS)
    if len(encoded) // 4 * 3 > MAX_IMAGE_BYTES + 3:
        raise TooLarge(field, len(encoded) // 4 * 3, MAX_IMAGE_BYTES, "bytes")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(field, image[:64], "is neither base64 nor a data URI in base64") from error
