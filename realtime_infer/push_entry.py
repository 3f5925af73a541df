"""A push as it lies in the stream. Stream fields: `i` item id, `s` sequence (decimal), and `p` this payload,
or `n` its bytes (decimal) where it is large and staged beside the stream:

| bytes | field                                                                |
| ----- | -------------------------------------------------------------------- |
| 2     | magic "RP"                                                           |
| 1     | version                                                              |
| 1     | kind: 1 push, 2 delete                                               |
| 4     | head_bytes, u32 little-endian                                        |
| 4     | image_bytes, u32 little-endian; 0 where the item has no picture      |
| head  | JSON {"attributes": {...}, "text": {...}}, sorted; empty in a delete |
| image | the picture as it was pushed                                         |

Version 2 differs in one key of the head: "image_url", where the picture is, in place of its bytes. Only an
item that has it is written so.

The id and the sequence are fields of the entry, because the sequence is given while the entry is added.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from contracts.errors import InvalidInput, UnknownVersion
from contracts.items import Item, check_item

PUSH_ENTRY_VERSIONS = (1, 2)
_MAGIC = b"RP"
_HEAD = struct.Struct("<2sBBII")
_PUSH, _DELETE = 1, 2

ITEM_ID, SEQUENCE, PAYLOAD, SIZE = b"i", b"s", b"p", b"n"


@dataclass(frozen=True)
class PushEntry:
    """One accepted push. item: None where the item is to be deleted."""

    item_id: str
    sequence: int
    item: Item | None


def encode_push(item: Item) -> bytes:
    """The payload of a checked item."""
    named = {} if item.image_url is None else {"image_url": item.image_url}
    head = orjson.dumps(
        {"attributes": {n: _value(v) for n, v in item.attributes.items()}, "text": dict(item.text), **named},
        option=orjson.OPT_SORT_KEYS,
    )
    image = item.image or b""
    return _HEAD.pack(_MAGIC, 2 if named else 1, _PUSH, len(head), len(image)) + head + image


def encode_delete() -> bytes:
    """The payload of a deletion."""
    return _HEAD.pack(_MAGIC, 1, _DELETE, 0, 0)


def decode_entry(fields: Mapping[bytes, bytes]) -> PushEntry:
    """A stream entry's fields -> the push; InvalidInput or UnknownVersion where they are not one."""
    try:
        item_id, sequence, payload = fields[ITEM_ID].decode(), int(fields[SEQUENCE]), fields[PAYLOAD]
    except (KeyError, ValueError) as error:
        raise InvalidInput("push entry", sorted(fields), "is malformed") from error
    if len(payload) < _HEAD.size or payload[:2] != _MAGIC:
        raise InvalidInput("push entry", payload[:16], "is not a push")
    if payload[2] not in PUSH_ENTRY_VERSIONS:
        raise UnknownVersion("push entry", payload[2], PUSH_ENTRY_VERSIONS)
    _, version, kind, head_bytes, image_bytes = _HEAD.unpack_from(payload)
    if len(payload) != _HEAD.size + head_bytes + image_bytes:
        raise InvalidInput(
            "push entry", len(payload), f"must be {_HEAD.size + head_bytes + image_bytes} bytes"
        )
    if kind == _DELETE:
        return PushEntry(item_id, sequence, None)
    if kind != _PUSH:
        raise UnknownVersion("push entry kind", kind, (_PUSH, _DELETE))
    image_start = _HEAD.size + head_bytes
    try:
        head = orjson.loads(payload[_HEAD.size : image_start])
        image_url = head["image_url"] if version == 2 else None
        item = Item(item_id, head["text"], head["attributes"], payload[image_start:] or None, image_url)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput("push entry", payload[_HEAD.size : image_start], "has no readable head") from error
    return PushEntry(item_id, sequence, check_item(item))


def _value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
