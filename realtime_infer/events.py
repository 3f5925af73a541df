"""What users did, as the write doors see it: accept events, forget a user. Answered once it is on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from contracts.errors import Overloaded, TooLarge
from contracts.events import MAX_EVENTS, Appended, Event, Forgotten, check_event
from param_server.behaviours import Behaviours
from realtime_infer.settings import EncoderSettings


class Events:
    """One write door's way to the stored behaviours."""

    def __init__(self, behaviours: Behaviours, settings: EncoderSettings) -> None:
        self._behaviours = behaviours
        self._kinds = frozenset(settings.event_kinds)
        self._most_calls = settings.max_in_flight
        self._retry_after_s = settings.retry_after_s
        self._in_flight = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place among the calls in flight, to be taken before a body is read; Overloaded where none is."""
        if self._in_flight >= self._most_calls:
            raise Overloaded(f"{self._in_flight} calls with events are in flight", self._retry_after_s)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def append(self, events: Sequence[Event], *, single: bool = False) -> Appended:
        """All events or, where one cannot be used, none. The caller holds a place of admit().

        single: errors name `item_id`, not `events[0].item_id`. An event without a time happened now.
        Raises InvalidInput, TooLarge; Unavailable (unknown what was written: send again; what has an event_id
        or a time of its own is not taken twice).
        """
        if len(events) > MAX_EVENTS:
            raise TooLarge("events", len(events), MAX_EVENTS, "events")
        now_ms = time.time_ns() // 1_000_000
        timed = []
        for n, event in enumerate(events):
            check_event(event, now_ms, "" if single else f"events[{n}].")
            if not self._kinds or event.kind in self._kinds:
                timed.append(event if event.timestamp_ms is not None else replace(event, timestamp_ms=now_ms))
        found = await self._behaviours.append(timed)
        return replace(found, ignored=len(events) - len(timed))

    async def forget(self, user_id: str) -> Forgotten:
        """Delete all of a user's behaviours, on disk too. Raises InvalidInput, TooLarge, Unavailable."""
        with self.admit():
            return await self._behaviours.forget(user_id)
