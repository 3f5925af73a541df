"""The window streams: on the stream's server, one per space, what was written to the space and when.

| key                   | type   | holds                        | lives until                           |
| --------------------- | ------ | ---------------------------- | ------------------------------------- |
| rc2:w:<space, 16 hex> | stream | entries, one of two kinds    | newest max_windows, approximately     |

| field | value                                                                                             |
| ----- | ------------------------------------------------------------------------------------------------- |
| `w`   | a window message (contracts.window): the records of one commit, announced after it                |
| `c`   | a change notice, ASCII `<version> <writer> <ms>`: from now on, for so many milliseconds, a writer |
|       | may change any row of the space without a window; 0: it has ended. writer: 16 hex characters      |

A bulk load would push everything else out of the stream, so it sends change notices instead of windows, the
first before its first commit, and never commits without one that is still running. What holds copies of rows
drops them at each notice and keeps none while one runs; who collects windows passes notices over. An entry
with neither field is of a later build: copies are dropped there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contracts.errors import InvalidInput, UnknownVersion
from param_server.keys import PREFIX

WINDOW_FIELD = b"w"
CHANGE_FIELD = b"c"
CHANGE_VERSION = 1
LONGEST_CHANGE_MS = 60_000


def window_stream(space_id: str) -> bytes:
    """Where the windows of a space are announced."""
    return PREFIX + b"w:" + space_id.encode()


@dataclass(frozen=True)
class ChangeNotice:
    """writer: 16 hex characters; lasts_ms: from when it is read, at most LONGEST_CHANGE_MS; 0: ended."""

    writer: str
    lasts_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.lasts_ms <= LONGEST_CHANGE_MS:
            raise InvalidInput("change.lasts_ms", self.lasts_ms, f"must be 0 to {LONGEST_CHANGE_MS}")

    def fields(self) -> dict[bytes, bytes]:
        """The stream entry."""
        return {CHANGE_FIELD: f"{CHANGE_VERSION} {self.writer} {self.lasts_ms}".encode()}


def parse_change(fields: Mapping[bytes, bytes]) -> ChangeNotice | None:
    """The notice of an entry; None where it is a window. Raises UnknownVersion, InvalidInput."""
    if WINDOW_FIELD in fields:
        return None
    value = fields.get(CHANGE_FIELD, b"")
    version, _, rest = value.partition(b" ")
    if version != b"%d" % CHANGE_VERSION:
        raise UnknownVersion("window stream entry", value[:16] or sorted(fields)[:4], CHANGE_VERSION)
    writer, _, lasts = rest.partition(b" ")
    if len(writer) != 16 or not lasts.isdigit() or len(lasts) > 8:
        raise InvalidInput("change notice", value[:64], "must be `<version> <writer> <ms>`")
    return ChangeNotice(writer.decode("ascii", "replace"), int(lasts))
