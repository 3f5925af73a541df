"""Where an item is: the newest push's status, else what the table holds (backfilled items, old pushes)."""

from __future__ import annotations

import time

from contracts.errors import InvalidInput, NotFound, Overloaded
from contracts.space import Space
from param_server.generations import Generations
from param_server.store import Store
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushState, PushStatus
from realtime_infer.settings import EncoderSettings

MAX_WAIT_MS = 10_000


class Statuses:
    """Answers for one write door."""

    def __init__(
        self, ingest: Ingest, store: Store, generations: Generations, settings: EncoderSettings
    ) -> None:
        self._ingest = ingest
        self._store = store
        self._generations = generations
        self._settings = settings
        self._waiting = 0
        self._space: Space | None = None
        self._next_look = 0.0

    async def get(self, item_id: str, wait_ms: int = 0) -> PushStatus:
        """The status, once it is final or after wait_ms. NotFound where neither push nor record is known."""
        if not 0 <= wait_ms <= MAX_WAIT_MS:
            raise InvalidInput("wait_ms", wait_ms, f"must be 0 to {MAX_WAIT_MS}")
        try:
            return await self._wait(item_id, wait_ms) if wait_ms else await self._ingest.status(item_id)
        except NotFound:
            return await self._stored(item_id)

    async def _wait(self, item_id: str, wait_ms: int) -> PushStatus:
        if self._waiting >= self._settings.max_waits:
            raise Overloaded(f"{self._waiting} requests wait for a status", self._settings.retry_after_s)
        self._waiting += 1
        try:
            return await self._ingest.wait(item_id, wait_ms / 1000)
        finally:
            self._waiting -= 1

    async def _stored(self, item_id: str) -> PushStatus:
        space = await self._served_space()
        if space is None:
            raise NotFound("item", item_id)
        fetched = await self._store.fetch(space, None, [item_id])
        if fetched.found[0]:
            sequence = int(fetched.records["sequence"][0])
            return PushStatus(item_id, PushState.SCOREABLE, sequence, "", 0)
        sequence = int((await self._store.sequences(space, [item_id]))[0])
        if sequence == 0:
            raise NotFound("item", item_id)
        return PushStatus(item_id, PushState.DELETED, sequence, "", 0)

    async def _served_space(self) -> Space | None:
        if time.monotonic() >= self._next_look:
            pointer = await self._generations.pointer(self._settings.scene)
            if pointer is not None:
                self._space = (await self._generations.get(pointer.generation_id)).space
            self._next_look = time.monotonic() + self._settings.scene_poll_s
        return self._space
