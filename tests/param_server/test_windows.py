from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from contracts.errors import InvalidInput, NotFound, UnknownVersion
from contracts.space import Space
from contracts.window import Window, decode_window
from param_server.store import Store
from param_server.window_stream import (
    CHANGE_FIELD,
    WINDOW_FIELD,
    ChangeNotice,
    parse_change,
    window_stream,
)
from param_server.windows import Windows
from tests.param_server.samples import make_deletes, make_space, make_window


async def made(redis: Redis) -> tuple[Store, Space]:
    store, space = Store(redis), make_space()
    await store.create_space(space)
    return store, space


async def windows(redis: Redis, space: Space) -> list[Window]:
    found: Any = await redis.xrange(window_stream(space.id))
    return [decode_window(fields[WINDOW_FIELD], space) for _, fields in found]


async def test_what_is_announced_is_what_the_table_holds(redis: Redis) -> None:
    """newer: loses; same: an equal sequence with other bytes keeps what was there; gone: deleted since."""
    store, space = await made(redis)
    committed = Windows(store, redis, 10)
    earlier = make_window(space, ["newer", "same"], [9, 5], seed=1)
    await committed.commit(earlier)
    await store.commit_window(make_deletes(space, ["gone"], [5]))
    later = make_window(space, ["fresh", "newer", "same", "gone"], [5, 5, 5, 5], seed=2)
    held = await committed.commit(later)
    assert held.item_ids == ["fresh", "same"]
    assert held.records[0].tobytes() == later.records[0].tobytes()
    assert held.records[1].tobytes() == earlier.records[1].tobytes()
    await committed.announce(held)
    (message,) = await windows(redis, space)
    assert (message.item_ids, message.records.tobytes()) == (held.item_ids, held.records.tobytes())


async def test_an_empty_window_is_not_announced(redis: Redis) -> None:
    store, space = await made(redis)
    sink = Windows(store, redis, 10)
    await sink.commit(make_window(space, ["a"], [9]))
    held = await sink.commit(make_window(space, ["a"], [3]))
    assert held.item_ids == []
    await sink.announce(held)
    assert await windows(redis, space) == []


async def test_a_space_that_was_never_created_is_refused(redis: Redis) -> None:
    with pytest.raises(NotFound, match="space"):
        await Windows(Store(redis), redis, 10).commit(make_window(make_space(), ["a"], [1]))


def test_a_change_notice_is_read_back() -> None:
    notice = ChangeNotice("0123456789abcdef", 5_000)
    assert notice.fields() == {CHANGE_FIELD: b"1 0123456789abcdef 5000"}
    assert parse_change(notice.fields()) == notice
    assert parse_change({WINDOW_FIELD: b"RW"}) is None


@pytest.mark.parametrize("fields", [{}, {b"z": b"1"}, {CHANGE_FIELD: b"2 0123456789abcdef 5000"}])
def test_an_entry_of_another_build_is_refused_by_its_version(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(UnknownVersion):
        parse_change(fields)


@pytest.mark.parametrize("value", [b"1 abc 5", b"1 0123456789abcdef -1", b"1 0123456789abcdef 99999", b"1"])
def test_a_broken_notice_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_change({CHANGE_FIELD: value})
