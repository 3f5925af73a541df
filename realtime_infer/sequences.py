"""The stream's counter against the table's high water: numbers of pushes must be newer than what is stored.

The counter lives on the stream's server only. A new or emptied server begins at 1, and the table, where
the newer sequence wins, would refuse its pushes; so the counter is raised, and what was numbered before
that is found by the gap that raising leaves: no push of this stream ever had a number in it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import cast

from redis.asyncio import Redis

from contracts.window import Window
from param_server.connection import redis_errors
from param_server.store import Store
from realtime_infer.ingest import Ingest
from realtime_infer.stream_keys import Partition

log = logging.getLogger(__name__)


class Sequences:
    """stream: a client of the stream's server. Raises Unavailable where either server is gone."""

    def __init__(self, ingest: Ingest, stream: Redis, store: Store) -> None:
        self._ingest = ingest
        self._stream = stream
        self._store = store
        self._keys = Partition()

    async def catch_up(self, at_least: int = 0) -> None:
        """Raise the counter to the table's high water and to at_least, where it is below."""
        water = max(at_least, await self._store.high_water())
        async with redis_errors("read the counter of sequences"):
            counter = int(await self._stream.get(cast(str, self._keys.sequence)) or 0)
        if counter < water:
            given = await self._ingest.watermark(at_least=water)
            log.warning("the stream counted %d, the table holds %d: raised to %d", counter, water, given)

    async def lost_to_another_count(self, window: Window, held: Window) -> Mapping[str, int]:
        """Items of a window that lost to a sequence which this stream's counter never gave -> that sequence.

        held: what the table holds of the window. Everything else that it refused lost to a newer push
        or to a backfill, as it should.
        """
        kept = set(held.item_ids)
        refused = [(i, item_id) for i, item_id in enumerate(window.item_ids) if item_id not in kept]
        if not refused:
            return {}
        stored = await self._store.sequences(window.space, [item_id for _, item_id in refused])
        await self.catch_up(int(stored.max()))
        async with redis_errors("read the gaps of the counter"):
            texts = await cast(Awaitable[list[bytes]], self._stream.lrange(cast(str, self._keys.gaps), 0, -1))
        gaps = [(int(low), int(high)) for low, high in (text.split() for text in texts)]
        return {
            item_id: newer
            for (i, item_id), newer in zip(refused, stored.tolist(), strict=True)
            if any(int(window.records["sequence"][i]) <= low < newer <= high for low, high in gaps)
        }
