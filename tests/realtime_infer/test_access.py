"""Door, worker and backfill as the servers' user of their role, tables and streams on two servers."""

from __future__ import annotations

from pathlib import Path

import httpx
from redis.asyncio import Redis

from contracts.items import Item
from param_server.behaviours import Behaviours
from param_server.connection import connect_one
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.window_stream import window_stream
from realtime_infer.app import open_door
from realtime_infer.backfill import backfill
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.push_queue import PushQueue
from realtime_infer.settings import EncoderSettings
from tests.access import guarded, url_of
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.sinks import quick, sinking, written
from tests.realtime_infer.workers import dead_letters, ended, working

ITEMS = [Item(f"i{n}", {"title": f"film {n}"}, {"year": 1900.0 + n}) for n in range(12)]


async def test_everything_an_encoder_does_it_may(
    encoder: Encoder, encoder_settings: EncoderSettings, tmp_path: Path
) -> None:
    with guarded(tmp_path) as servers:
        settings = servers.settings("encoder", tmp_path / "var")
        async with (
            connect_one(url_of(servers.tables, "encoder"), settings) as tables,
            connect_one(url_of(servers.streams, "encoder"), settings) as streams,
        ):
            one = encoder_settings.model_copy(update={"stream_partitions": 1})  # to look into
            store = Store(tables)
            report = await backfill(
                ITEMS, encoder, store, streams, str(tmp_path / "offline"), batch_size=5, settings=one
            )
            assert (report.committed, report.failed) == (12, 0)

            ingest = Ingest(streams, one)
            await ingest.push(Item("left behind", {"title": "by a worker that died"}))
            gone = PushQueue(streams, one.model_copy(update={"consumer": "gone"}))
            await gone.open()
            assert len(await gone.read()) == 1

            async with (
                open_door(one, settings) as door,
                working(one, settings),
                sinking(quick(tmp_path / "sink"), settings),
                httpx.AsyncClient(base_url=door.http_url, timeout=15) as http,
            ):
                await ended(ingest, ["left behind"])
                for body in ({"item_id": "new"}, {"item_id": "poison", "image": "bm8gaW1hZ2U="}):
                    pushed = await http.post("/v1/items", json={"title": "a film", **body})
                    assert pushed.status_code == 202, pushed.text
                await ended(ingest, ["new", "poison"])
                deleted = await http.delete("/v1/items/i3")
                assert deleted.status_code == 202, deleted.text
                await ended(ingest, ["i3"])
                for name in ("new", "i3"):
                    status = await http.get(f"/v1/items/{name}")
                    assert status.status_code == 200, status.text
                event = {"user_id": "u", "item_id": "i1", "kind": "click"}
                assert (await http.post("/v1/events", json=event)).status_code == 200
                assert len((await Behaviours(tables).read(["u"]))[0]) == 1
                assert (await http.delete("/v1/users/u")).status_code == 200
                await written(streams, OfflineTable(str(tmp_path / "sink")), encoder.space)
                metrics = (await http.get("/metrics")).text
            assert 'repcenter_breaker_state{server="streams",state="closed"} 1.0' in metrics
            found = await store.fetch(encoder.space, None, ["left behind", "new", "i3"])
            assert found.found.tolist() == [True, True, False]
            assert await entries(streams, window_stream(encoder.space.id))
            assert len(await dead_letters(streams)) == 1

        # each server holds its own keys and none of the other's
        plain = StoreSettings()
        async with (
            connect_one(url_of(servers.tables, "admin"), plain) as tables,
            connect_one(url_of(servers.streams, "admin"), plain) as streams,
        ):
            assert await seen(tables) == {"rc2:r:", "rc2:m:", "rc2:u:", "rc2:{c"}
            assert await seen(streams) <= {"rc2:{p", "rc2:w:"}


async def seen(redis: Redis) -> set[str]:
    return {key.decode(errors="replace")[:6] async for key in redis.scan_iter(count=1_000)}
