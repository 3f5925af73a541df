"""A push as multipart/form-data: the picture as a file, the item beside it.

Parts: `image`, a file; and the item, either whole as JSON in `item`, or its fields each in a part: `item_id`,
`title`, `image_url`, `idempotency_key` as text, `text` and `attributes` as JSON.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES
from realtime_infer.item_body import ItemBody, parse_item

MULTIPART = "multipart/form-data"
_ITEM, _IMAGE, _JSON_PARTS = "item", "image", ("text", "attributes")
_MOST_FIELDS, _MOST_FIELD_BYTES = 8, 2 << 20


async def read_item(request: Request, limit: int) -> tuple[ItemBody, bytes | None]:
    """The item without its picture, and the picture. Raises TooLarge, InvalidInput, RequestValidationError.

    The picture lies on disk while it comes, from one megabyte on.
    """
    parser = MultiPartParser(
        request.headers,
        _bounded(request, limit),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_MOST_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError, UnicodeDecodeError) as error:
        raise InvalidInput("body", str(error), f"is not {MULTIPART}") from error
    try:
        fields, image = dict[str, str](), None
        for name, value in form.multi_items():
            if name in fields or (name == _IMAGE and image is not None):
                raise InvalidInput(name, None, "was given twice")
            if isinstance(value, UploadFile) != (name == _IMAGE):
                raise InvalidInput(name, None, "must be a file" if name == _IMAGE else "must not be a file")
            if isinstance(value, UploadFile):
                if value.size is not None and value.size > MAX_IMAGE_BYTES:
                    raise TooLarge(_IMAGE, value.size, MAX_IMAGE_BYTES, "bytes")
                image = await value.read()
            else:
                fields[name] = value
        return _item(fields), image
    finally:
        await form.close()


async def _bounded(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLarge("body", int(declared), limit, "bytes")
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge("body", size, limit, "bytes")
        yield part


def _item(fields: dict[str, str]) -> ItemBody:
    if _ITEM in fields:
        others = sorted(fields.keys() - {_ITEM})
        if others:
            raise InvalidInput(others[0], fields[others[0]], "cannot be given beside item")
        return parse_item(fields[_ITEM].encode())
    body: dict[str, Any] = dict(fields)
    for name in _JSON_PARTS:
        if name in fields:
            try:
                body[name] = orjson.loads(fields[name])
            except orjson.JSONDecodeError as error:
                raise InvalidInput(name, fields[name], "is not JSON") from error
    try:
        return ItemBody.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error
