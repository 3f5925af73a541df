"""The scorer's use of the row cache: which tables it holds, what is read before a generation serves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

import numpy as np

from param_server.cache import CacheLimits, RowCache
from param_server.connection import connect
from param_server.frequency import Counts
from param_server.hot_ids import HotIds
from param_server.server import Server
from param_server.settings import StoreSettings
from param_server.store import Store
from serving.loaded import LoadedGeneration
from serving.settings import ScorerSettings

log = logging.getLogger(__name__)
_SAVE_EVERY_S = 60.0


class CachedRows:
    """Opened over a store; its follower has a connection of its own to the stream's server."""

    def __init__(self, table: Server, settings: ScorerSettings, store_settings: StoreSettings) -> None:
        """table: the tables' server. Raises InvalidInput where a URL cannot be used."""
        setting = "redis_url" if store_settings.stream_url is None else "stream_url"
        url = store_settings.stream_url or store_settings.redis_url or ""
        self._stream = connect(url, store_settings, setting)
        limits = CacheLimits(
            settings.cache_bytes,
            settings.cache_bound_s,
            settings.cache_stale,
            settings.cache_patience_ms / 1e3,
        )
        self.cache = RowCache(Store(table), self._stream, limits, store_settings.socket_timeout_s / 2)
        self._hot = HotIds(store_settings.var_dir / "cache" / "hot_ids.json", settings.cache_warm_ids)
        self._within_s = settings.cache_warm_s
        self._said_at = 0.0

    async def prepare(self, loaded: LoadedGeneration) -> None:
        """Hold the generation's tables, and read the rows asked for most before it serves."""
        self.cache.use(loaded.space, loaded.id_table)
        ids, counts = self.cache.hottest(self._hot.most)
        if not ids:
            ids, counts = await asyncio.to_thread(self._hot.load)
        began = time.monotonic()
        self._said_at = began

        def say(done: int) -> None:
            if time.monotonic() - self._said_at > 1.0:
                self._said_at = time.monotonic()
                log.info("generation %s: %d of %d rows are warm", loaded.id, done, len(ids))

        pair = (loaded.space, loaded.id_table)
        done = await self.cache.warm(pair, ids, counts, self._within_s, say)
        took = time.monotonic() - began
        log.info("generation %s: %d rows are warm after %.2f s", loaded.id, done, took)

    def keep(self, serving: Collection[LoadedGeneration]) -> None:
        """Let go of the tables of generations that no scene serves any more."""
        self.cache.keep([(loaded.space, loaded.id_table) for loaded in serving])

    async def run(self) -> None:
        """Write down now and then what is asked for most, until cancelled."""
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await self._save()

    async def _save(self) -> None:
        ids, counts = self.cache.hottest(self._hot.most)
        if ids:
            try:
                await asyncio.to_thread(self._hot.save, ids, _at_least_one(counts))
            except OSError as error:
                log.warning("the ids asked for most are not saved: %s", error)

    async def close(self) -> None:
        """Save, end the followers, close the connection."""
        await self._save()
        await self.cache.close()
        await self._stream.aclose()


def _at_least_one(counts: Counts) -> Counts:
    return np.maximum(counts, np.uint8(1))
