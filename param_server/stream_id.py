"""Ids of stream entries, `<ms>-<number>`: by the stream server's clock, always rising."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Self

from contracts.errors import InvalidInput

_ID = re.compile(r"(\d{1,20})-(\d{1,20})")


class StreamId(NamedTuple):
    """An id; compares as the server does."""

    ms: int
    number: int

    @classmethod
    def parse(cls, text: bytes | str) -> Self:
        """InvalidInput where it is none."""
        found = _ID.fullmatch(text.decode("latin-1") if isinstance(text, bytes) else text)
        if found is None:
            raise InvalidInput("stream id", text, "must be <ms>-<number>")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"

    def encode(self) -> bytes:
        """As commands take it."""
        return str(self).encode()

    @property
    def padded(self) -> str:
        """As file names hold it: sorts by time."""
        return f"{self.ms:015d}-{self.number:06d}"


START = StreamId(0, 0)  # before every entry


class Range(NamedTuple):
    """The entries behind `after`, up to `last`."""

    after: StreamId
    last: StreamId


def joined(ranges: list[Range]) -> list[Range]:
    """The same entries as few ranges, ascending: one where nothing is missing between them."""
    out: list[Range] = []
    for after, last in sorted(ranges):
        if out and after <= out[-1].last:
            out[-1] = Range(out[-1].after, max(out[-1].last, last))
        else:
            out.append(Range(after, last))
    return out


def fields_of(given: Any) -> dict[bytes, bytes]:
    """The fields of a stream's entry, as the server gave them in a row, or parsed."""
    return given if isinstance(given, dict) else dict(zip(given[::2], given[1::2], strict=True))
