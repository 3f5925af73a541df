"""Following one space's window stream, so that copies of its rows stay at most so many seconds behind it.

Four times in a bound, the stream is asked for its end and then, in the same round trip, for what follows the
last entry read. Up to that end, what was read is compared with the stream's own count of entries. Only a
comparison that agrees moves the time up to which copies are known to be right. Where it does not agree
(entries were trimmed before they were read, the server lost what it had, the stream is another), and where a
node took over that may lack the last entries, copies are dropped and the follower starts anew from the
stream's end. A lost connection alone drops nothing: the follower goes on from the last entry that it read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from contracts.errors import RepcenterError, Unavailable
from contracts.space import Space
from contracts.window import Window, decode_window
from param_server.commands import Commands, pack, slots_of
from param_server.connection import redis_errors
from param_server.server import Server, failed_over, home, send
from param_server.slot_map import Address
from param_server.stream_id import fields_of
from param_server.window_stream import LONGEST_CHANGE_MS, WINDOW_FIELD, parse_change, window_stream

log = logging.getLogger(__name__)

_COUNT = 64  # entries of one read
_PAUSES_S = (0.05, 0.1, 0.2, 0.5)

Entry = tuple[bytes, dict[bytes, bytes]]
Position = tuple[tuple[int, int], int]  # id of the last entry read; entries ever added up to it


class WindowFollower:
    """renew: called with each window; drop: called when copies may be wrong in a way that is not told."""

    def __init__(
        self,
        stream: Server,
        space: Space,
        bound_s: float,
        block_s: float,
        renew: Callable[[Window], None],
        drop: Callable[[], None],
    ) -> None:
        """block_s: the longest wait for an entry, less than the client's time for a reply."""
        self.space: Final = space
        self.resyncs = 0
        self._stream = stream
        self._key: Any = window_stream(space.id)
        self._bound_s = bound_s
        self._beat_s = min(bound_s / 4, block_s)
        self._renew, self._drop = renew, drop
        self._position: Position | None = None
        self._right_at = -float("inf")  # time.monotonic(): copies held all that was in the stream then
        self._changes: dict[str, float] = {}  # writer -> time.monotonic() until which it may write
        self._epoch = 0
        self._home: Address | None = None  # the node of a cluster that has the stream
        self.attached = asyncio.Event()  # set once rows may be kept

    @property
    def behind_s(self) -> float:
        """Seconds since copies were last known to be right; infinite before the first time."""
        return time.monotonic() - self._right_at

    @property
    def fresh(self) -> bool:
        """Whether copies are at most the bound behind the stream."""
        return self.behind_s <= self._bound_s

    def token(self) -> int | None:
        """Taken before a row is read from the table; the row may be kept if it is the same after the reading.

        None: nothing may be kept now, for no windows are followed yet or a bulk load is on its way.
        """
        if self._position is None or any(until > time.monotonic() for until in self._changes.values()):
            return None
        return self._epoch

    async def run(self) -> None:
        """Follow until cancelled. A server that is away is asked again and again."""
        failures = 0
        while True:
            try:
                began = time.monotonic()
                if not await self._compare():
                    continue  # there is more to read
                self._right_at = began
                if failures:
                    log.info("windows of space %s are followed again", self.space.id)
                failures = 0
                await self._read_until(began + self._beat_s)
            except Exception as error:
                known = isinstance(error, RepcenterError)
                if not failures or not known:
                    log.warning(
                        "windows of space %s cannot be read: %s", self.space.id, error, exc_info=not known
                    )
                await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
                failures += 1

    async def _compare(self) -> bool:
        """Read what there is and compare counts up to the end; True where nothing is left to read."""
        last = self._position
        asked = [pack([b"XINFO", b"STREAM", self._key])]
        if last is not None:
            after = _text(last[0]).encode()
            asked.append(pack([b"XREAD", b"COUNT", b"%d" % _COUNT, b"STREAMS", self._key, after]))
        async with redis_errors(f"follow space {self.space.id}"):
            replies = await send(self._stream, Commands(asked, slots_of([self._key] * len(asked))))
        info, *read = replies.values
        now = _end(info)
        another, self._home = failed_over(self._stream, self._home), home(self._stream, self._key)
        if last is None:
            self._position = now
            self.attached.set()
            return True
        entries = _entries(read[0])
        told = [entry for entry in entries if _id(entry[0]) <= now[0]]
        self._apply(told)
        if len(told) == _COUNT and not another:
            return False
        if self._position != now or another:
            self._resync(now)
        self._apply(entries[len(told) :])
        return True

    def _resync(self, now: Position) -> None:
        log.warning(
            "windows of space %s: read up to %s, the stream is at %s; cached rows are dropped",
            self.space.id,
            self._position,
            now,
        )
        self.resyncs += 1
        self._position = now
        self._forget()

    async def _read_until(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            if self._position is None:
                return
            async with redis_errors(f"follow space {self.space.id}"):
                reply = await self._stream.xread(
                    {self._key: _text(self._position[0])}, count=_COUNT, block=max(1, int(left * 1_000))
                )
            self._apply(_entries(reply))

    def _apply(self, entries: Sequence[Entry]) -> None:
        for entry_id, fields in entries:
            try:
                notice = parse_change(fields)
                if notice is None:
                    self._renew(decode_window(fields[WINDOW_FIELD], self.space))
                else:
                    self._change(notice.writer, notice.lasts_ms)
            except RepcenterError as error:
                log.error("an entry of space %s cannot be read: %s", self.space.id, error)
                self._change("", LONGEST_CHANGE_MS)
            if self._position is not None:
                self._position = (_id(entry_id), self._position[1] + 1)

    def _change(self, writer: str, lasts_ms: int) -> None:
        now = time.monotonic()
        self._changes = {other: until for other, until in self._changes.items() if until > now}
        self._changes[writer] = now + lasts_ms / 1e3
        self._forget()

    def _forget(self) -> None:
        self._epoch += 1
        self._drop()


def _end(info: Any) -> Position:
    """The end of a stream from XINFO STREAM; of one that does not exist yet, nothing."""
    if isinstance(info, ResponseError) and "no such key" in str(info).lower():
        return (0, 0), 0
    if isinstance(info, Exception):
        raise Unavailable(f"XINFO STREAM: {info}") from info
    said = info if isinstance(info, dict) else dict(zip(info[::2], info[1::2], strict=True))
    return _id(said[b"last-generated-id"]), int(said[b"entries-added"])


def _entries(reply: Any) -> list[Entry]:
    """The entries of one stream of an XREAD reply, parsed or as the server gave it."""
    if isinstance(reply, Exception):
        raise Unavailable(f"XREAD: {reply}") from reply
    if not reply:
        return []
    ((_, entries),) = reply.items() if isinstance(reply, dict) else reply
    return [(entry_id, fields_of(fields)) for entry_id, fields in entries]


def _id(text: bytes | str) -> tuple[int, int]:
    milliseconds, _, number = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(milliseconds), int(number or 0)


def _text(entry_id: tuple[int, int]) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"
