from __future__ import annotations

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import tombstones
from contracts.errors import NotFound
from contracts.items import Item
from contracts.window import Window
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.windows import Windows
from tests.param_server.samples import make_space, make_window
from tests.realtime_infer.workers import windows


def window(encoder: Encoder, titles: dict[str, str], sequences: list[int]) -> Window:
    encoded = encoder.encode([Item(item_id, {"title": title}) for item_id, title in titles.items()])
    records = encoder.records(encoded, np.array(sequences, np.uint64))
    return Window(encoder.space, list(titles), records, 1)


async def test_what_is_announced_is_what_the_table_holds(
    redis: Redis, store: Store, encoder: Encoder
) -> None:
    """newer: loses; same: an equal sequence with other bytes keeps what was there; gone: deleted since."""
    committed = Windows(store, redis, 10)
    earlier = window(encoder, {"newer": "a", "same": "b"}, [9, 5])
    await committed.commit(earlier)
    await store.commit_window(
        Window(encoder.space, ["gone"], tombstones(encoder.space.dtype, np.array([5], np.uint64)), 1)
    )
    later = window(encoder, {"fresh": "x", "newer": "y", "same": "z", "gone": "w"}, [5, 5, 5, 5])
    held = await committed.commit(later)
    assert held.item_ids == ["fresh", "same"]
    assert held.records[0].tobytes() == later.records[0].tobytes()
    assert held.records[1].tobytes() == earlier.records[1].tobytes()
    await committed.announce(held)
    (message,) = await windows(redis, encoder.space)
    assert (message.item_ids, message.records.tobytes()) == (held.item_ids, held.records.tobytes())


async def test_an_empty_window_is_not_announced(redis: Redis, store: Store, encoder: Encoder) -> None:
    sink = Windows(store, redis, 10)
    await sink.commit(window(encoder, {"a": "new"}, [9]))
    held = await sink.commit(window(encoder, {"a": "old"}, [3]))
    assert held.item_ids == []
    await sink.announce(held)
    assert await windows(redis, encoder.space) == []


async def test_a_space_that_was_never_created_is_refused(redis: Redis) -> None:
    with pytest.raises(NotFound, match="space"):
        await Windows(Store(redis), redis, 10).commit(make_window(make_space(), ["a"], [1]))
