"""The stream's counters against the table's high water: numbers of pushes must be newer than what is stored.

The counters live on the stream's server only. A new or emptied server begins at 1, and the table, where
the newer sequence wins, would refuse its pushes; so a counter is raised, and what was numbered before
that is found by the gap that raising leaves: no push of this stream ever had a number in it.

Each partition counts for itself, so most are below the table's newest sequence. That is no reason to raise
one: its items have numbers of its own counter only. It is raised where it was never held against the table
(no gap is remembered, not even an empty one), where the table has a number that no partition ever gave, and
where a push of its own lost to one that it did not give.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from contracts.window import Window
from param_server.connection import redis_errors
from param_server.server import Server, ask
from param_server.store import Store
from realtime_infer.ingest import Ingest
from realtime_infer.stream_keys import Partition
from realtime_infer.stream_scripts import RAISE

log = logging.getLogger(__name__)


class Sequences:
    """stream: a client of the stream's server. Raises Unavailable where either server is gone."""

    def __init__(self, ingest: Ingest, stream: Server, store: Store) -> None:
        self._ingest = ingest
        self._stream = stream
        self._store = store

    async def catch_up(self) -> None:
        """Raise the counters to the table's high water where the stream cannot have counted that far."""
        water = await self._store.high_water()
        counters = await self._ingest.counters()
        async with redis_errors("read the gaps of the counters"):
            raised = await ask(self._stream, *((b"LLEN", keys.gaps) for keys in counters))
        foreign = water > max(counters.values())
        for (keys, counter), gaps in zip(counters.items(), raised, strict=True):
            if not gaps or (foreign and counter < water):
                await self._raise(keys, counter, water)

    async def lost_to_another_count(self, window: Window, held: Window) -> Mapping[str, int]:
        """Items of a window that lost to a sequence which their partition never gave -> that sequence.

        held: what the table holds of the window. Everything else that it refused lost to a newer push
        or to a backfill, as it should.
        """
        kept = set(held.item_ids)
        refused = [(i, item_id) for i, item_id in enumerate(window.item_ids) if item_id not in kept]
        if not refused:
            return {}
        await self.catch_up()
        stored = (await self._store.sequences(window.space, [item_id for _, item_id in refused])).tolist()
        losses: dict[Partition, list[tuple[str, int, int]]] = defaultdict(list)
        for (i, item_id), newer in zip(refused, stored, strict=True):
            partition = await self._ingest.partitions.of(item_id.encode())
            losses[partition].append((item_id, int(window.records["sequence"][i]), newer))
        counters = await self._ingest.counters()
        lost: dict[str, int] = {}
        for keys, items in losses.items():
            newest = max(newer for _, _, newer in items)
            if counters[keys] < newest:
                await self._raise(keys, counters[keys], newest)
            gaps = await self._gaps(keys)
            lost |= {
                item_id: newer
                for item_id, sequence, newer in items
                if any(sequence <= low < newer <= high for low, high in gaps)
            }
        return lost

    async def _gaps(self, keys: Partition) -> list[tuple[int, int]]:
        async with redis_errors("read the gaps of a counter"):
            reply: Any = self._stream.lrange(keys.gaps.decode(), 0, -1)
            texts: list[bytes] = await reply
        return [(int(low), int(high)) for low, high in (text.split() for text in texts)]

    async def _raise(self, keys: Partition, counter: int, water: int) -> None:
        async with redis_errors("raise a counter of sequences"):
            top = await RAISE.run(self._stream, [keys.sequence, keys.gaps], [water])
        if counter < top:
            where = f"partition {keys.number} of the stream counted {counter}, the table holds {water}"
            log.warning("%s: raised to %d", where, top)
