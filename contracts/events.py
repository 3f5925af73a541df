"""A behaviour event on the wire: what a user did, with what, and when."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import InvalidInput
from contracts.items import check_item_id

MAX_EVENTS = 10_000  # of one call
MAX_AHEAD_MS = 3_600_000  # of the door's clock; an event from a far future would be the newest for ever
MAX_TIMESTAMP_MS = 2**53 - 1  # exact in every JSON reader, and in the store's scripts


@dataclass(frozen=True)
class Event:
    """One positive action of a user. Delivered again, it is known by its event_id.

    timestamp_ms: since the epoch; None: the time of its arrival. event_id: unique within the user; None: the
    item, the time and the kind are its identity. kind: a word such as click or buy, not stored.
    """

    user_id: str
    item_id: str
    timestamp_ms: int | None = None
    event_id: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Appended:
    """What became of the events of a call. duplicates: known already; too_old: not newer than the oldest of a
    full list; forgotten: from before the deletion of the user's data; ignored: of a kind that does not count.
    """

    appended: int = 0
    duplicates: int = 0
    too_old: int = 0
    forgotten: int = 0
    ignored: int = 0


@dataclass(frozen=True)
class Forgotten:
    """A deletion of a user's data. behaviours: how many were deleted; forgotten_ms: events up to this time,
    milliseconds since the epoch, are refused from now on."""

    user_id: str
    behaviours: int
    forgotten_ms: int


def check_event(event: Event, now_ms: int, where: str = "") -> Event:
    """The event, or InvalidInput / TooLarge that names the field. where: before the names, as `events[3].`"""
    check_item_id(event.user_id, f"{where}user_id")
    check_item_id(event.item_id, f"{where}item_id")
    if event.event_id is not None:
        check_item_id(event.event_id, f"{where}event_id")
    if event.kind is not None:
        check_item_id(event.kind, f"{where}kind")
    if event.timestamp_ms is not None:
        if type(event.timestamp_ms) is not int or not 0 <= event.timestamp_ms <= MAX_TIMESTAMP_MS:
            raise InvalidInput(f"{where}timestamp_ms", event.timestamp_ms, "must be an integer, 0 to 2^53-1")
        if event.timestamp_ms > now_ms + MAX_AHEAD_MS:
            raise InvalidInput(
                f"{where}timestamp_ms",
                event.timestamp_ms,
                "is more than an hour ahead of this machine's clock",
            )
    return event
