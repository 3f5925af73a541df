"""An item on the wire, the text that stands for it, and its attribute slots.

The text template (which fields make the encoder's text, in which order) and the tokenisation are
data: they travel in the encoder bundle, so training and the live encoder read the same words.

Attribute slots are part of an item's record: a categorical field holds up to `slots` token hashes
(`token_hash`, 0 = empty), a numeric field holds the bits of one float32 (NaN = absent). Rankers map
slots to rows of their own vocabularies (contracts.schema), so a new ranker re-encodes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.errors import InvalidInput, TooLarge, UnknownVersion
from contracts.images import MAX_IMAGE_BYTES

MAX_ID_BYTES = 256
MAX_FIELD_CHARACTERS = 20_000
MAX_FIELDS = 64
MAX_NAME_CHARACTERS = 128
MAX_TOKENS = 256
MAX_URL_CHARACTERS = 4_096
TEMPLATE_VERSION = 1

AttributeValue = str | float | Sequence[str]
_INT64 = range(-(2**63), 2**63)  # what every JSON reader and writer on the way can carry


def check_item_id(value: object, where: str = "item_id") -> str:
    """A usable id: a non-empty string of at most MAX_ID_BYTES bytes of UTF-8, any characters."""
    if not isinstance(value, str):
        raise InvalidInput(where, value, "must be a string")
    if not value:
        raise InvalidInput(where, value, "must not be empty")
    size = _utf8_bytes(value, where)
    if size > MAX_ID_BYTES:
        raise TooLarge(where, size, MAX_ID_BYTES, "bytes")
    return value


@dataclass(frozen=True)
class Item:
    """Something that can be shown. `text` holds the title and any further text fields by name.

    Its picture is given by its bytes, or by where it is: a URL or an object's path, fetched before encoding.
    """

    item_id: str
    text: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    image: bytes | None = None
    image_url: str | None = None

    @property
    def has_picture(self) -> bool:
        return self.image is not None or self.image_url is not None


def check_item(item: Item, where: str = "") -> Item:
    """The item, or InvalidInput / TooLarge that names the field, below `where` where it is given."""
    below = f"{where}." if where else ""
    check_item_id(item.item_id, f"{below}item_id")
    if len(item.text) > MAX_FIELDS:
        raise TooLarge(f"{below}text", len(item.text), MAX_FIELDS, "fields")
    for name, text in item.text.items():
        check_name(name, f"{below}text")
        check_text(text, f"{below}text.{name}")
    check_attributes(item.attributes, f"{below}attributes")
    if item.image is not None:
        if not isinstance(item.image, bytes):
            raise InvalidInput(f"{below}image", item.image, "must be bytes")
        if len(item.image) > MAX_IMAGE_BYTES:
            raise TooLarge(f"{below}image", len(item.image), MAX_IMAGE_BYTES, "bytes")
    if item.image_url is not None:
        check_image_url(item.image_url, f"{below}image_url")
        if item.image is not None:
            raise InvalidInput(f"{below}image_url", item.image_url, "cannot be given together with image")
    return item


def check_image_url(value: object, where: str = "image_url") -> str:
    """A usable reference to a picture: `scheme://…` or an absolute path. Whether it is allowed, and whether
    anything is there, the fetcher says. Raises InvalidInput or TooLarge."""
    if not isinstance(value, str):
        raise InvalidInput(where, value, "must be a string")
    if len(value) > MAX_URL_CHARACTERS:
        raise TooLarge(where, len(value), MAX_URL_CHARACTERS, "characters")
    _utf8_bytes(value, where)
    if not value.isprintable():
        raise InvalidInput(where, value, "must not hold control characters or blanks other than spaces")
    if not (value.startswith("/") or "://" in value):
        raise InvalidInput(where, value, "must be a URL or the path of an object")
    return value


def check_attributes(values: Mapping[str, AttributeValue], where: str) -> None:
    """Columns of an item, a user or a context: InvalidInput / TooLarge that names the field."""
    if len(values) > MAX_FIELDS:
        raise TooLarge(where, len(values), MAX_FIELDS, "fields")
    for name, value in values.items():
        check_name(name, where)
        _check_attribute(value, f"{where}.{name}")


def _utf8_bytes(value: str, where: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(where, value, "is not valid Unicode") from error


def check_name(name: object, where: str) -> None:
    """A usable name of a field or modality, or InvalidInput that names `where`."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidInput(where, name, f"field names must have 1 to {MAX_NAME_CHARACTERS} characters")
    _utf8_bytes(name, where)


def check_text(text: object, where: str) -> None:
    """A usable text, or InvalidInput / TooLarge that names `where`."""
    if not isinstance(text, str):
        raise InvalidInput(where, text, "must be a string")
    if len(text) > MAX_FIELD_CHARACTERS:
        raise TooLarge(where, len(text), MAX_FIELD_CHARACTERS, "characters")
    _utf8_bytes(text, where)


def _check_attribute(value: object, where: str) -> None:
    if isinstance(value, bool | bytes) or value is None:
        raise InvalidInput(where, value, "must be a string, a number or a list of strings")
    if isinstance(value, int | float):
        if isinstance(value, int) and value not in _INT64:
            raise InvalidInput(where, value, "does not fit a signed 64-bit integer")
        wide = float(value)
        if not math.isfinite(wide) or abs(wide) > float(np.finfo(np.float32).max):
            raise InvalidInput(where, value, "does not fit float32")
        return
    tokens = [value] if isinstance(value, str) else value
    if not isinstance(tokens, Sequence) or not all(isinstance(token, str) for token in tokens):
        raise InvalidInput(where, value, "must be a string, a number or a list of strings")
    if len(tokens) > MAX_TOKENS:
        raise TooLarge(where, len(tokens), MAX_TOKENS, "tokens")
    for token in tokens:
        check_text(token, where)


@dataclass(frozen=True)
class TextTemplate:
    """Which fields make the encoder's text: `Heat. genres: Crime, Drama. …`, absent ones left out.

    The first field stands alone; the others are preceded by their name.
    """

    fields: tuple[str, ...]
    version: int = TEMPLATE_VERSION

    def __post_init__(self) -> None:
        if self.version != TEMPLATE_VERSION:
            raise UnknownVersion("text template", self.version, TEMPLATE_VERSION)

    def render(self, text: Mapping[str, str]) -> str:
        """The text of one item, "" where no field of the template is given."""
        parts = []
        for position, name in enumerate(self.fields):
            value = " ".join(text.get(name, "").replace("|", ", ").split())
            if value:
                parts.append(value if position == 0 else f"{name}: {value}")
        return ". ".join(parts)


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Texts -> the ids of each (L_k,) int64, at most max_tokens, not padded."""
    tokenizer.enable_truncation(max_length=max_tokens)
    tokenizer.no_padding()
    return [np.array(e.ids, dtype=np.int64) for e in tokenizer.encode_batch(list(texts))]


def pad_tokens(
    rows: Sequence[npt.NDArray[np.int64]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """K rows of ids -> input_ids and attention_mask (K, L) int64, L = the longest; 0 behind the shorter."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    if rows:
        ids[mask] = np.concatenate(rows)
    return ids, mask.astype(np.int64)


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Texts -> input_ids and attention_mask (K, L) int64, L = the longest, at most max_tokens."""
    return pad_tokens(token_ids(tokenizer, texts, max_tokens))


@dataclass(frozen=True)
class AttributeField:
    """One attribute as the space stores it. A numeric field has exactly one slot."""

    name: str
    kind: Literal["categorical", "numeric"]
    slots: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("categorical", "numeric"):
            raise InvalidInput(f"attributes.{self.name}.kind", self.kind, "must be categorical or numeric")
        if not 1 <= self.slots <= 64 or (self.kind == "numeric" and self.slots != 1):
            raise InvalidInput(f"attributes.{self.name}.slots", self.slots, "must be 1 to 64, 1 if numeric")


def token_hash(field_name: str, token: str) -> int:
    """A stable u32 > 0 for one token of one field (blake2b-32 of `field NUL token`)."""
    digest = hashlib.blake2b(f"{field_name}\0{token}".encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest, "little") or 1


def attribute_slots(
    attributes: Mapping[str, AttributeValue], fields: Sequence[AttributeField], where: str = "attributes"
) -> npt.NDArray[np.uint32]:
    """Attribute values -> (A,) uint32, A = the slots of all fields in order.

    A categorical string is split at "|"; tokens beyond the field's slots are left out. A categorical
    number is the token of its shortest decimal form, 7 and 7.0 alike.
    """
    out = np.zeros(sum(f.slots for f in fields), dtype=np.uint32)
    start = 0
    for f in fields:
        value = attributes.get(f.name)
        if f.kind == "numeric":
            out[start] = np.array(_number(f"{where}.{f.name}", value), dtype=np.float32).view(np.uint32)
        elif value is not None:
            tokens = value.split("|") if isinstance(value, str) else value
            if isinstance(tokens, int | float):
                tokens = [str(int(tokens)) if float(tokens).is_integer() else repr(tokens)]
            kept = [t.strip() for t in tokens if t.strip()][: f.slots]
            out[start : start + len(kept)] = [token_hash(f.name, t) for t in kept]
        start += f.slots
    return out


def _number(where: str, value: AttributeValue | None) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise InvalidInput(where, value, "must be a number")
    return float(value)
