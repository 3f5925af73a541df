"""The decoded pictures of a batch: by position, the pixels or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contracts.errors import RepcenterError
from contracts.images import Pixels, decode_pixels
from contracts.items import Item

Pictures = Mapping[int, Pixels | RepcenterError]


def decode_here(items: Sequence[Item], size: tuple[int, int]) -> Pictures:
    """Decoded in this process, whose life then depends on the decoders. size: (height, width)."""
    return {i: _decode(item.image, size) for i, item in enumerate(items) if isinstance(item.image, bytes)}


def _decode(image: bytes, size: tuple[int, int]) -> Pixels | RepcenterError:
    try:
        return decode_pixels(image, *size)
    except RepcenterError as error:
        return error
