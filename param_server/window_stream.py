"""The window streams: on the stream's server, one per space, what was written to the space and when.

| key                   | type   | holds                                            | lives until         |
| --------------------- | ------ | ------------------------------------------------ | ------------------- |
| rc2:w:{<space>}       | stream | entries, one of two kinds                        | see below           |
| rc2:w:{<space>}:bytes | string | bytes of the entries' values                     | for ever            |
| rc2:w:{<space>}:sunk  | string | id of the entry up to which the sink has written | sink_hold_s behind  |
| rc2:w:{<space>}:lease | string | token of the sink that writes the space          | sink_lease_s behind |
| rc2:w:{<space>}:owed  | string | 1: the sink has passed a change notice           | it read the table   |

<space> is the 16 hex characters of its id; all keys of a space lie in one cluster slot, for scripts.

| field | value                                                                                             |
| ----- | ------------------------------------------------------------------------------------------------- |
| `w`   | a window message (contracts.window): the records of one commit, announced after it                |
| `c`   | a change notice, ASCII `<version> <writer> <ms>`: from now on, for so many milliseconds, a writer |
|       | may change any row of the space without a window; 0: it has ended. writer: 16 hex characters      |

A bulk load would push everything else out of the stream, so it sends change notices instead of windows, the
first before its first commit, and never commits without one that is still running. What holds copies of rows
drops them at each notice and keeps none while one runs; the sink reads the table when it has ended. An entry
with neither field is of a later build: copies are dropped there too.

Memory: a stream keeps its newest max_windows entries, and those that its sink has not written; but never
values of more than max_window_bytes, the newest aside. What goes beyond that is lost to the stream only: who
reads it sees the gap, and reads the table instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contracts.errors import InvalidInput, UnknownVersion
from param_server.connection import redis_errors
from param_server.keys import PREFIX
from param_server.scripts import Script
from param_server.server import Server

WINDOW_FIELD = b"w"
CHANGE_FIELD = b"c"
CHANGE_VERSION = 1
LONGEST_CHANGE_MS = 60_000
DEFAULT_WINDOW_BYTES = 1 << 30


def window_stream(space_id: str) -> bytes:
    """Where the windows of a space are announced."""
    return PREFIX + b"w:{" + space_id.encode() + b"}"


def window_bytes(space_id: str) -> bytes:
    """How many bytes of values that stream holds."""
    return window_stream(space_id) + b":bytes"


def window_sunk(space_id: str) -> bytes:
    """How far the sink has written it."""
    return window_stream(space_id) + b":sunk"


def window_lease(space_id: str) -> bytes:
    """Which sink writes it."""
    return window_stream(space_id) + b":lease"


def window_owed(space_id: str) -> bytes:
    """Whether rows changed without windows that the sink has not taken from the table yet."""
    return window_stream(space_id) + b":owed"


def window_keys(space_id: str) -> list[bytes]:
    """All keys of a space's stream."""
    parts = (window_stream, window_bytes, window_sunk, window_lease, window_owed)
    return [key(space_id) for key in parts]


class Announcements:
    """Entries into window streams, within their bounds. stream: a client of the stream's server."""

    def __init__(self, stream: Server, max_windows: int, max_bytes: int = DEFAULT_WINDOW_BYTES) -> None:
        self._script = Script(stream, "announce_window")
        self._bounds = [b"%d" % max_windows, b"%d" % max_bytes]

    async def add(self, space_id: str, field: bytes, value: bytes) -> bytes:
        """One entry -> its id. Raises Unavailable."""
        names = [window_stream(space_id), window_bytes(space_id), window_sunk(space_id)]
        async with redis_errors("announce a window"):
            (entry,) = await self._script(names, [field, value, *self._bounds])
        return bytes(entry)


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
