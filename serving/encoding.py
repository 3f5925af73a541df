"""Contents to vectors and records by an encoder: one call for all who want the same, and the newest kept.

A content is what an item looks like and says, whatever its id, in one space; so an answer never grows old.
One whose picture lies behind a URL may, and is not kept. Failures are not kept. A caller that gives up leaves
the call to the others; one whose joined call ran out of the other's time asks once more in its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence

import orjson

from contracts.errors import DeadlineExceeded, Overloaded, RepcenterError, Unavailable
from contracts.items import Item
from contracts.space import Space
from doors.shutdown import cancel
from serving.encode_metrics import EncodeMetrics
from serving.encode_settings import EncodeSettings
from serving.encoder_link import Answer, EncoderLink

log = logging.getLogger(__name__)
_RETRY_AFTER_S = 0.1

Key = tuple[str, bytes]
Flight = asyncio.Future[Answer]


class Encoding:
    """One per process, on one event loop."""

    def __init__(self, link: EncoderLink, settings: EncodeSettings, metrics: EncodeMetrics) -> None:
        self._link, self._metrics = link, metrics
        self._most_kept, self._most_flying = settings.encode_cache_items, settings.encode_in_flight
        self._kept: OrderedDict[Key, Answer] = OrderedDict()
        self._flights: dict[Key, Flight] = {}
        self._calls: set[asyncio.Task[None]] = set()
        metrics.waiting.set_function(lambda: len(self._flights))

    async def close(self) -> None:
        """End the calls on their way; who waits for them has Unavailable."""
        for call in list(self._calls):
            await cancel(call)

    def ask(self, space: Space, items: Sequence[Item], until: float) -> Pending:
        """Begin at once what nobody has asked for yet, in one call. until: time.perf_counter()."""
        keys = [content_key(space, item) for item in items]
        wanted = dict(zip(keys, items, strict=True))
        known: dict[Key, Answer] = {}
        joined: dict[Key, Flight] = {}
        for key in wanted:
            if key in self._kept:
                self._kept.move_to_end(key)
                known[key] = self._kept[key]
            elif key in self._flights:
                joined[key] = self._flights[key]
        self._metrics.cached.inc(len(known))
        self._metrics.joined.inc(len(joined))
        own = self.start(
            space, {k: i for k, i in wanted.items() if k not in known and k not in joined}, until
        )
        return Pending(self, space, wanted, keys, known, own, joined, until)

    def start(self, space: Space, items: dict[Key, Item], until: float) -> dict[Key, Flight]:
        """One call for contents that are not on their way."""
        if not items:
            return {}
        loop = asyncio.get_running_loop()
        flights: dict[Key, Flight] = {key: loop.create_future() for key in items}
        if self._flights and len(self._flights) + len(items) > self._most_flying:
            refused = Overloaded(f"{len(self._flights)} contents wait for the encoder", _RETRY_AFTER_S)
            for flight in flights.values():
                self._metrics.failed(refused)
                flight.set_result(refused)
            return flights
        self._flights |= flights
        call = asyncio.create_task(self._call(space, items, flights, until))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return flights

    def on_its_way(self, key: Key) -> Flight | None:
        return self._flights.get(key)

    async def _call(
        self, space: Space, items: dict[Key, Item], flights: dict[Key, Flight], until: float
    ) -> None:
        stopped = Unavailable("the scorer stops")
        answers: list[Answer] = [stopped] * len(items)
        began = time.perf_counter()
        try:
            answers = await self._link.encode(space, list(items.values()), until)
        except RepcenterError as error:
            answers = [error] * len(items)
        except Exception:
            log.exception("encoding failed")
            answers = [Unavailable("the scorer's log says more")] * len(items)
        finally:
            self._metrics.seconds.observe(time.perf_counter() - began)
            for (key, flight), answer in zip(flights.items(), answers, strict=True):
                del self._flights[key]
                self._land(key, items[key], answer)
                flight.set_result(answer)

    def _land(self, key: Key, item: Item, answer: Answer) -> None:
        if isinstance(answer, RepcenterError):
            self._metrics.failed(answer)
            return
        self._metrics.encoded()
        if self._most_kept and item.image_url is None:
            self._kept[key] = answer
            if len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)


class Pending:
    """Contents that were asked for, some of them by others."""

    def __init__(
        self,
        encoding: Encoding,
        space: Space,
        items: dict[Key, Item],
        keys: list[Key],
        known: dict[Key, Answer],
        own: dict[Key, Flight],
        joined: dict[Key, Flight],
        until: float,
    ) -> None:
        self._encoding, self._space, self._items = encoding, space, items
        self._keys, self._known, self._own, self._joined = keys, known, own, joined
        self._until = until

    async def answers(self) -> list[Answer]:
        """Of each item in the order asked. DeadlineExceeded stands for those that did not come in time."""
        await self._wait([*self._own.values(), *self._joined.values()])
        found = self._known | {
            k: _now(f) for flights in (self._own, self._joined) for k, f in flights.items()
        }
        again = [key for key in self._joined if self._joined[key].done() and _of_its_caller(found[key])]
        if again and time.perf_counter() < self._until:
            flights = {key: f for key in again if (f := self._encoding.on_its_way(key)) is not None}
            rest = {key: self._items[key] for key in again if key not in flights}
            flights |= self._encoding.start(self._space, rest, self._until)
            await self._wait(list(flights.values()))
            found |= {key: _now(flight) for key, flight in flights.items()}
        return [found[key] for key in self._keys]

    async def _wait(self, flights: list[Flight]) -> None:
        if flights:
            await asyncio.wait(flights, timeout=max(0.0, self._until - time.perf_counter()))


def content_key(space: Space, item: Item) -> Key:
    """The same for equal contents, whatever their ids."""
    said = {
        "attributes": {n: list(v) if isinstance(v, tuple) else v for n, v in item.attributes.items()},
        "text": dict(item.text),
        "image_url": item.image_url,
        "picture": item.image is not None,
    }
    head = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(len(head).to_bytes(8, "little") + head)
    digest.update(item.image or b"")
    return space.id, digest.digest()


def _now(flight: Flight) -> Answer:
    return flight.result() if flight.done() else DeadlineExceeded("the encoder did not answer in time")


def _of_its_caller(answer: Answer) -> bool:
    """Whether a joined call failed for want of the time that its own caller had."""
    return isinstance(answer, DeadlineExceeded | Overloaded)
