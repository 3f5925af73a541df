"""Rows of items by id: in Redis, or in this process. Both give zeros for an id that is not known.

The file is an .npz: `ids` (I,) strings, `rows` (I,) with the fields version, flags, inv_norm, codes of an
item's record and id_version, id_evidence, id_scale, id_codes of its ID row. In Redis a row's bytes are one
string.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import redis
import redis.asyncio

from loadtests.peers.given import Given

Rows = npt.NDArray[np.void]


class RowSource(Protocol):
    """(K,) rows of K ids, in a thread or on an event loop."""

    def read(self, ids: Sequence[str]) -> Rows: ...

    async def fetch(self, ids: Sequence[str]) -> Rows: ...

    async def close(self) -> None: ...


class StoredRows:
    """One MGET for all ids."""

    def __init__(self, url: str, prefix: str, dtype: np.dtype[Any]) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(url)
        self._async: redis.asyncio.Redis = redis.asyncio.Redis.from_url(url)
        self._prefix, self._dtype, self._absent = prefix, dtype, bytes(dtype.itemsize)

    def read(self, ids: Sequence[str]) -> Rows:
        return self._rows(self._redis.mget([self._prefix + item_id for item_id in ids]))

    async def fetch(self, ids: Sequence[str]) -> Rows:
        return self._rows(await self._async.mget([self._prefix + item_id for item_id in ids]))

    async def close(self) -> None:
        self._redis.close()
        await self._async.aclose()

    def _rows(self, values: Any) -> Rows:
        return np.frombuffer(b"".join([value or self._absent for value in values]), self._dtype)


class HeldRows:
    """All rows in one matrix, and the place of every id."""

    def __init__(self, ids: Iterable[str], rows: Rows) -> None:
        self._place = {item_id: place for place, item_id in enumerate(ids, 1)}
        self._rows = np.concatenate([np.zeros(1, rows.dtype), rows])

    def read(self, ids: Sequence[str]) -> Rows:
        place = self._place
        return self._rows[[place.get(item_id, 0) for item_id in ids]]

    async def fetch(self, ids: Sequence[str]) -> Rows:
        return self.read(ids)

    async def close(self) -> None:
        """Nothing is open."""


def row_source(given: Given) -> RowSource:
    with np.load(given.rows) as file:
        ids: list[str] = file["ids"].tolist()
        rows: Rows = file["rows"]
    return StoredRows(given.redis_url, given.prefix, rows.dtype) if given.redis_url else HeldRows(ids, rows)
