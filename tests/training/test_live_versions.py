"""A pushed item changes between two requests: the trainer shows each the version that was served then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from redis.asyncio import Redis

from contracts.schema import FeatureSchema
from contracts.window import Window, encode_window
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.stream_id import StreamId
from param_server.window_stream import WINDOW_FIELD, window_stream
from tests.realtime_infer.sinks import follows, quick, sinking, written
from tests.training import tiny
from training.item_table import align_versions, version_table
from training.vocabularies import fit_vocabularies


async def test_each_sample_sees_its_own_version(
    redis: Redis, settings: StoreSettings, tmp_path: Path
) -> None:
    """Both by live windows. The time is that of the stream, not what the workers' clocks said."""
    offline, store = OfflineTable(str(tmp_path)), Store(redis)
    await store.create_space(tiny.SPACE)
    before, after = tiny.records(0)[7:8].copy(), tiny.records(1)[7:8].copy()
    before["sequence"], after["sequence"] = 1, 2
    item = tiny.ITEM_IDS[7]
    async with sinking(quick(tmp_path), settings):
        await follows(offline, tiny.SPACE)
        for record, served_ms, said_ms in ((before, 1_000_000, 9_000_000), (after, 5_000_000, 1)):
            window = Window(tiny.SPACE, [item], record, said_ms)
            await store.commit_window(window)
            fields = {WINDOW_FIELD: encode_window(window)}
            await redis.xadd(window_stream(tiny.SPACE.id), fields, id=str(StreamId(served_ms, 0)))  # type: ignore[arg-type]
        await written(redis, offline, tiny.SPACE)

    found = await asyncio.to_thread(offline.read_versions, tiny.SPACE)
    versions = align_versions(tiny.ITEM_IDS, found.item_ids, found.records, found.since_ms, tiny.SPACE)
    schema = FeatureSchema(8, 4, fit_vocabularies(tiny.records(), tiny.SPACE.attributes))
    assert versions.as_of(log_end_s=6_000) == "time"
    table = version_table(versions, tiny.NEW, schema, "time")
    assert table.index is not None
    asked = np.array([999_999, 1_000_000, 4_999_999, 5_000_000])
    rows = table.index.rows(np.full((4, 1), 8, np.int32), asked)[:, 0]
    assert rows[0] == 0
    assert np.array_equal(table.codes[rows[1]], before["codes"][0])
    assert np.array_equal(table.codes[rows[2]], before["codes"][0])
    assert np.array_equal(table.codes[rows[3]], after["codes"][0])
