"""One read for all who want a row at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import numpy as np

from contracts.errors import RepcenterError, Unavailable
from param_server.store import Fetched

Read = Callable[[Sequence[str]], Awaitable[Fetched]]


class Flight:
    """A read on its way. touched: ids whose row was announced to have changed meanwhile."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.places = {item_id: place for place, item_id in enumerate(ids)}
        self.touched: set[str] = set()
        self.task: asyncio.Task[Fetched]


class SingleFlight:
    """Reads of one pair of tables. A caller that gives up leaves the read to the others."""

    def __init__(
        self,
        read: Read,
        landed: Callable[[Sequence[str], Fetched, set[str], int | None], None],
        token: Callable[[], int | None],
    ) -> None:
        """landed: called with every result before anybody has it, with the ids touched meanwhile, and with
        what `token` gave when the read began."""
        self.joins = 0
        self._read, self._landed, self._token = read, landed, token
        self._flights: dict[str, Flight] = {}

    async def get(self, ids: Sequence[str]) -> Fetched:
        """Rows of K distinct ids, at least one, that the store takes. Raises what the store raises."""
        flights = self._flights
        alone = [item_id for item_id in ids if item_id not in flights]
        if len(alone) == len(ids):
            return await asyncio.shield(self._start(ids).task)
        self.joins += len(ids) - len(alone)
        joined = {id(flight): flight for flight in (flights[i] for i in ids if i in flights)}
        own = self._start(alone) if alone else None
        parts: list[tuple[list[int], Fetched]] = []
        for flight in ([own] if own else []) + list(joined.values()):
            places = [place for place, item_id in enumerate(ids) if item_id in flight.places]
            wanted = [ids[place] for place in places]
            try:
                whole = await asyncio.shield(flight.task)
            except Unavailable:
                raise
            except RepcenterError:
                if flight is own:
                    raise
                parts.append(
                    (places, await self._read(wanted))
                )  # it may be somebody else's row that is broken
            else:
                parts.append((places, _rows(whole, [flight.places[item_id] for item_id in wanted])))
        return _merged(len(ids), parts)

    def touch(self, ids: Iterable[str]) -> None:
        """Rows of these ids have changed; reads that began before may have seen the older ones."""
        if self._flights:
            for item_id in ids:
                flight = self._flights.get(item_id)
                if flight is not None:
                    flight.touched.add(item_id)

    async def close(self) -> None:
        """End what is on its way."""
        tasks = {flight.task for flight in self._flights.values()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, ids: Sequence[str]) -> Flight:
        flight = Flight(ids)
        for item_id in ids:
            self._flights[item_id] = flight
        flight.task = asyncio.create_task(self._fly(flight, ids))
        flight.task.add_done_callback(_seen)
        return flight

    async def _fly(self, flight: Flight, ids: Sequence[str]) -> Fetched:
        token = self._token()
        try:
            fetched = await self._read(ids)
            self._landed(ids, fetched, flight.touched, token)
            return fetched
        finally:
            for item_id in ids:
                del self._flights[item_id]


def _seen(task: asyncio.Task[Fetched]) -> None:
    """Where all callers have gone, nobody else asks for the error."""
    if not task.cancelled():
        task.exception()


def _rows(whole: Fetched, places: list[int]) -> Fetched:
    return Fetched(whole.records[places], whole.found[places], whole.id_rows[places], whole.id_found[places])


def _merged(count: int, parts: Sequence[tuple[list[int], Fetched]]) -> Fetched:
    first = parts[0][1]
    out = Fetched(
        np.zeros(count, first.records.dtype),
        np.zeros(count, bool),
        np.zeros(count, first.id_rows.dtype),
        np.zeros(count, bool),
    )
    for places, part in parts:
        out.records[places], out.found[places] = part.records, part.found
        out.id_rows[places], out.id_found[places] = part.id_rows, part.id_found
    return out
